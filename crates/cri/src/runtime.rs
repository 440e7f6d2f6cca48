//! The CRI's service for pods and containers.

use crate::error::of_engine;
use crate::events::{Events, events};
use crate::pieces::{Pieces, large_pieces, pieces};
use crate::request::Parsed;
use crate::streams::of_streaming;
use crate::{Reply, answer, filter, images, metrics, reply, request, span, streams};
use crisp_cri_api::v1;
use crisp_cri_api::v1::runtime_service_server::RuntimeService;
use crisp_engine::{ContainerStats, Engine, PodStats};
use crisp_model::{ContainerState, PodId, PodState};
use crisp_streaming::Server;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use tonic::{Request, Status};

/// Serves `runtime.v1.RuntimeService` from an engine.
#[derive(Debug)]
pub(crate) struct Runtime {
    engine: Arc<Engine>,
    streaming: Arc<Server>,
}

impl Runtime {
    pub(crate) fn new(engine: Arc<Engine>, streaming: Arc<Server>) -> Self {
        Self { engine, streaming }
    }

    fn pods(&self, filter: Option<v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let pods = self.engine.pods();
        let wanted = pods.filter(|pod| filter::pod(&filter, pod));
        wanted.map(|pod| answer::pod(&pod)).collect()
    }

    fn containers(&self, filter: Option<v1::ContainerFilter>) -> Vec<v1::Container> {
        let filter = filter.unwrap_or_default();
        let images = images::by_digest(self.engine.images());
        let containers = self.engine.containers();
        let wanted = containers.filter(|container| filter::container(&filter, container));
        wanted
            .map(|container| answer::container(&container, images(&container.image_id)))
            .collect()
    }

    fn statuses_in(&self, pod: &PodId) -> Vec<v1::ContainerStatus> {
        let images = images::by_digest(self.engine.images());
        let containers = self.engine.containers_of(pod);
        containers
            .map(|container| answer::container_status(&container, &images))
            .collect()
    }

    /// Refuses at once what would only fail when the client has come for its streams.
    fn running(&self, id: &str) -> Result<(), Status> {
        let view = self.engine.container(id).map_err(of_engine)?;
        match view.state {
            ContainerState::Running(_) => Ok(()),
            state => Err(Status::failed_precondition(format!(
                "container {} is {}, not running",
                view.id,
                state.word()
            ))),
        }
    }

    async fn stats_of_containers(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Vec<v1::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let containers = self.engine.containers();
        let wanted = containers.filter(|container| filter::container_stats(&filter, container));
        let stats = self.engine.container_stats(wanted.collect()).await;
        stats.iter().map(answer::container_stats).collect()
    }

    async fn stats_of_pods(
        &self,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Vec<v1::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let pods = self.engine.pods();
        let wanted = pods.filter(|pod| filter::pod_stats(&filter, pod));
        let stats = self.engine.pod_stats(wanted.collect()).await;
        stats.iter().map(answer::pod_stats).collect()
    }

    /// Of pods that are not ready nothing is left to measure.
    async fn metrics_of_pods(&self) -> Vec<v1::PodSandboxMetrics> {
        let pods = self.engine.pods();
        let ready = pods.filter(|pod| pod.state == PodState::Ready);
        let pods = self.engine.pod_metrics(ready.collect()).await;
        pods.iter().map(metrics::of_pod).collect()
    }
}

/// The id of the pod that the RPC is about.
fn pod(id: &str) -> Parsed<&str> {
    span::about_pod(id);
    request::pod_id(id)
}

/// The id of the container that the RPC is about.
fn container(id: &str) -> Parsed<&str> {
    span::about_container(id);
    request::container_id(id)
}

/// The one figure of a list of one; there is none when what it measures has just gone.
fn only<T>(mut stats: Vec<T>, what: &str) -> Result<T, Status> {
    stats
        .pop()
        .ok_or_else(|| Status::not_found(format!("the {what} has just gone")))
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Reply<v1::VersionResponse> {
        reply(answer::version())
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Reply<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request::pod_config(request.config)?;
        let run = self.engine.run_pod(config, &request.runtime_handler);
        let pod_sandbox_id = run.await.map_err(of_engine)?.to_string();
        span::about_pod(&pod_sandbox_id);
        reply(v1::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Reply<v1::StopPodSandboxResponse> {
        let request = request.into_inner();
        let stop = self.engine.stop_pod(pod(&request.pod_sandbox_id)?);
        stop.await.map_err(of_engine)?;
        reply(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Reply<v1::RemovePodSandboxResponse> {
        let request = request.into_inner();
        let remove = self.engine.remove_pod(pod(&request.pod_sandbox_id)?);
        remove.await.map_err(of_engine)?;
        reply(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Reply<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let timestamp = answer::unix_ns(SystemTime::now());
        let view = self
            .engine
            .pod(pod(&request.pod_sandbox_id)?)
            .map_err(of_engine)?;
        let mut response = v1::PodSandboxStatusResponse {
            status: Some(answer::pod_status(&view)),
            containers_statuses: self.statuses_in(&view.id),
            timestamp,
            ..Default::default()
        };
        if request.verbose {
            let info = self.engine.pod_info(view.id.as_str()).map_err(of_engine)?;
            response.info = answer::info(&info);
        }
        reply(response)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Reply<v1::ListPodSandboxResponse> {
        let items = self.pods(request.into_inner().filter);
        reply(v1::ListPodSandboxResponse { items })
    }

    type StreamPodSandboxesStream = Pieces<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        let pods = self.pods(request.into_inner().filter);
        reply(pieces(pods, |pod_sandboxes| {
            v1::StreamPodSandboxesResponse { pod_sandboxes }
        }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Reply<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let pod = pod(&request.pod_sandbox_id)?;
        let config = request::container_config(request.config)?;
        span::about_image(&config.image.image);
        let create = self.engine.create_container(pod, config);
        let container_id = create.await.map_err(of_engine)?.to_string();
        span::about_container(&container_id);
        reply(v1::CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Reply<v1::StartContainerResponse> {
        let request = request.into_inner();
        let start = self
            .engine
            .start_container(container(&request.container_id)?);
        start.await.map_err(of_engine)?;
        reply(v1::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Reply<v1::StopContainerResponse> {
        let request = request.into_inner();
        let container = container(&request.container_id)?;
        let timeout = request::timeout(request.timeout)?;
        let stop = self.engine.stop_container(container, timeout);
        stop.await.map_err(of_engine)?;
        reply(v1::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Reply<v1::RemoveContainerResponse> {
        let request = request.into_inner();
        let remove = self
            .engine
            .remove_container(container(&request.container_id)?);
        remove.await.map_err(of_engine)?;
        reply(v1::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Reply<v1::ListContainersResponse> {
        let containers = self.containers(request.into_inner().filter);
        reply(v1::ListContainersResponse { containers })
    }

    type StreamContainersStream = Pieces<v1::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        let containers = self.containers(request.into_inner().filter);
        reply(pieces(containers, |containers| {
            v1::StreamContainersResponse { containers }
        }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Reply<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let view = self
            .engine
            .container(container(&request.container_id)?)
            .map_err(of_engine)?;
        let images = images::by_digest(self.engine.images());
        let mut response = v1::ContainerStatusResponse {
            status: Some(answer::container_status(&view, images)),
            ..Default::default()
        };
        if request.verbose {
            let info = self.engine.container_info(view.id.as_str());
            response.info = answer::info(&info.map_err(of_engine)?);
        }
        reply(response)
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Reply<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let container = container(&request.container_id)?;
        let limits = request::update(request.linux)?;
        let update = self.engine.update_container(container, limits);
        update.await.map_err(of_engine)?;
        reply(v1::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Reply<v1::ReopenContainerLogResponse> {
        let request = request.into_inner();
        let reopen = self.engine.reopen_log(container(&request.container_id)?);
        reopen.await.map_err(of_engine)?;
        reply(v1::ReopenContainerLogResponse {})
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Reply<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let container = container(&request.container_id)?;
        let command = request::command(request.cmd)?;
        let timeout = Some(request::timeout(request.timeout)?).filter(|timeout| !timeout.is_zero());
        let exec = self.engine.exec_sync(container, command, timeout);
        reply(answer::exec_sync(exec.await.map_err(of_engine)?))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Reply<v1::ExecResponse> {
        let mut request = request.into_inner();
        request.cmd = request::command(request.cmd)?;
        self.running(container(&request.container_id)?)?;
        let exec = streams::exec(self.engine.clone(), request);
        let url = self.streaming.exec(exec).map_err(of_streaming)?;
        reply(v1::ExecResponse { url })
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Reply<v1::AttachResponse> {
        let request = request.into_inner();
        self.running(container(&request.container_id)?)?;
        let attach = streams::attach(self.engine.clone(), request);
        let url = self.streaming.attach(attach).map_err(of_streaming)?;
        reply(v1::AttachResponse { url })
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Reply<v1::PortForwardResponse> {
        let request = request.into_inner();
        let view = self.engine.ready_pod(pod(&request.pod_sandbox_id)?);
        let id = view.map_err(of_engine)?.id.to_string();
        let ports = request::ports(&request.port)?;
        let forward = streams::port_forward(self.engine.clone(), id, ports);
        let url = self.streaming.port_forward(forward).map_err(of_streaming)?;
        reply(v1::PortForwardResponse { url })
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Reply<v1::ContainerStatsResponse> {
        let request = request.into_inner();
        let view = self
            .engine
            .container(container(&request.container_id)?)
            .map_err(of_engine)?;
        let stats: Vec<ContainerStats> = self.engine.container_stats(vec![view]).await;
        let stats = answer::container_stats(&only(stats, "container")?);
        reply(v1::ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Reply<v1::ListContainerStatsResponse> {
        let stats = self.stats_of_containers(request.into_inner().filter).await;
        reply(v1::ListContainerStatsResponse { stats })
    }

    type StreamContainerStatsStream = Pieces<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        let stats = self.stats_of_containers(request.into_inner().filter).await;
        reply(pieces(stats, |container_stats| {
            v1::StreamContainerStatsResponse { container_stats }
        }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Reply<v1::PodSandboxStatsResponse> {
        let request = request.into_inner();
        let view = self
            .engine
            .pod(pod(&request.pod_sandbox_id)?)
            .map_err(of_engine)?;
        let stats: Vec<PodStats> = self.engine.pod_stats(vec![view]).await;
        let stats = answer::pod_stats(&only(stats, "pod")?);
        reply(v1::PodSandboxStatsResponse { stats: Some(stats) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Reply<v1::ListPodSandboxStatsResponse> {
        let stats = self.stats_of_pods(request.into_inner().filter).await;
        reply(v1::ListPodSandboxStatsResponse { stats })
    }

    type StreamPodSandboxStatsStream = Pieces<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        let stats = self.stats_of_pods(request.into_inner().filter).await;
        reply(pieces(stats, |pod_sandbox_stats| {
            v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }
        }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Reply<v1::UpdateRuntimeConfigResponse> {
        let cidrs = request::pod_cidrs(request.into_inner().runtime_config)?;
        if !cidrs.is_empty() {
            self.engine.set_pod_cidrs(cidrs).map_err(of_engine)?;
        }
        reply(v1::UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Reply<v1::StatusResponse> {
        let status = self.engine.status();
        let mut response = answer::node_status(&status);
        if request.into_inner().verbose {
            response.info = answer::node_info(
                &self.engine.config(),
                self.engine.cgroup_driver(),
                &status.cni,
            );
        }
        reply(response)
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Reply<v1::RuntimeConfigResponse> {
        reply(answer::cgroup_driver(self.engine.cgroup_driver()))
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Reply<v1::CheckpointContainerResponse> {
        let request = request.into_inner();
        let container = container(&request.container_id)?;
        let timeout = request::timeout(request.timeout)?;
        let location = Path::new(&request.location);
        let checkpoint = self
            .engine
            .checkpoint_container(container, location, timeout);
        checkpoint.await.map_err(of_engine)?;
        reply(v1::CheckpointContainerResponse {})
    }

    type GetContainerEventsStream = Events;

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        reply(events(self.engine.clone()))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Reply<v1::ListMetricDescriptorsResponse> {
        let descriptors = metrics::descriptors();
        reply(v1::ListMetricDescriptorsResponse { descriptors })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Reply<v1::ListPodSandboxMetricsResponse> {
        let pod_metrics = self.metrics_of_pods().await;
        reply(v1::ListPodSandboxMetricsResponse { pod_metrics })
    }

    type StreamPodSandboxMetricsStream = Pieces<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        let metrics = self.metrics_of_pods().await;
        reply(large_pieces(metrics, |pod_sandbox_metrics| {
            v1::StreamPodSandboxMetricsResponse {
                pod_sandbox_metrics,
            }
        }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Reply<v1::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let pod = pod(&request.pod_sandbox_id)?;
        let overhead = request::limits(request.overhead, "overhead")?;
        let resources = request::limits(request.resources, "resources")?;
        let update = self.engine.update_pod(pod, overhead, resources);
        update.await.map_err(of_engine)?;
        reply(v1::UpdatePodSandboxResourcesResponse {})
    }
}
