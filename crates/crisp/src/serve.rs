//! `crisp serve`: the daemon.

use crate::client::Target;
use crate::reload::Hangups;
use crate::shutdown::Shutdown;
use anyhow::{Context, Result, bail};
use crisp_engine::{Config, Engine};
use crisp_metrics::Endpoint;
use crisp_sys::memory;
use crisp_traces::Exporter;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::convert::Infallible;
use std::fs::{self, File, Permissions};
use std::future::pending;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::time::sleep;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::{Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Threads that serve RPCs: more do not help, as the daemon waits far more than it computes.
const WORKERS_MAX: usize = 4;

/// How long another daemon may hold on to the directories, and how often that is looked at.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// How long until the address of the metrics is tried again.
const METRICS_RETRY: Duration = Duration::from_secs(5);

/// How long nothing has happened to pods when the memory that it took is given back.
const REST: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How much is logged: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "CRISP_LOG")]
    log: Level,
}

pub(crate) fn run(arguments: &Arguments, target: &Target) -> Result<()> {
    let (config, socket) = (target.config()?, target.socket()?);
    if !nix::unistd::geteuid().is_root() {
        bail!("the daemon needs root: start it with sudo, or as a systemd service");
    }
    memory::share_heaps();
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(WORKERS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("starting the runtime's threads")?;
    let exporter = {
        let _entered = runtime.enter();
        span_exporter(&config)?
    };
    observe(arguments.log, exporter.as_ref());
    let served = runtime.block_on(serve(config, target, &socket));
    if let Some(exporter) = exporter {
        exporter.end();
    }
    // A thread may wait for a disk, or for a program; the next daemon deals with what they leave.
    runtime.shutdown_background();
    served
}

/// What sends traces; none: nobody asked for it.
fn span_exporter(config: &Config) -> Result<Option<Exporter>> {
    let settings = &config.tracing;
    let start = |endpoint: &String| Exporter::start(endpoint, settings.samples_per_million);
    Ok(settings.endpoint.as_ref().map(start).transpose()?)
}

/// Has log lines of `level` written, and spans exported.
fn observe(level: Level, exporter: Option<&Exporter>) {
    let registry = tracing_subscriber::registry();
    match exporter {
        // What the log does not show costs nothing then.
        None => registry.with(ours(level)).with(log_lines()).init(),
        Some(exporter) => registry
            .with(log_lines().with_filter(ours(level)))
            .with(exporter.layer().with_filter(traced()))
            .init(),
    }
}

/// Our own spans down to the phases of a start, and in them what the log has by default.
fn traced<S>() -> impl Filter<S> {
    filter_fn(|of| {
        let level = if of.is_span() {
            Level::DEBUG
        } else {
            Level::INFO
        };
        of.target().starts_with("crisp") && *of.level() <= level
    })
    .with_max_level_hint(LevelFilter::DEBUG)
}

/// Our own lines from `level` on; of the libraries below us only what is wrong.
fn ours(level: Level) -> Targets {
    Targets::new()
        .with_default(Level::WARN.min(level))
        .with_target("crisp", level)
}

fn log_lines<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
}

async fn serve(config: Config, target: &Target, socket: &Path) -> Result<()> {
    fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("making {}", config.run_dir.display()))?;
    let shutdown = Shutdown::watch().context("watching signals")?;
    let hangups = Hangups::watch().context("watching signals")?;
    let _lock = lock(&config.run_dir).await?;
    let engine = Engine::open(config).await.context("opening the node")?;
    let server = crisp_cri::Server::start(engine.clone()).await?;
    let listener = listen(socket)?;
    tracing::info!(socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "serving the CRI");
    // Nobody to tell, unless systemd started this.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    memory::unmap_code();
    tokio::select! {
        served = server.serve(listener, shutdown.asked()) => served?,
        never = hangups.reload(target, &server) => match never {},
        never = tell_metrics(engine.clone()) => match never {},
        never = give_back_memory(&engine) => match never {},
    }
    let _ = fs::remove_file(socket);
    engine.close().await;
    tracing::info!("the daemon ends; its pods go on");
    Ok(())
}

/// Whenever pods were made or ended, and nothing more of the kind comes.
async fn give_back_memory(engine: &Engine) -> Infallible {
    loop {
        engine.rested(REST).await;
        // It holds the heaps for some milliseconds, which no RPC should wait for.
        let _ = tokio::task::spawn_blocking(memory::trim_heap).await;
    }
}

/// Answers Prometheus, if somebody asked for it.
async fn tell_metrics(engine: Arc<Engine>) -> Infallible {
    match engine.config().metrics.address {
        Some(address) => {
            let endpoint = metrics_endpoint(address).await;
            endpoint.serve(move || engine.metrics_text()).await
        }
        None => pending().await,
    }
}

/// Pods are served also while somebody else has the address.
async fn metrics_endpoint(address: SocketAddr) -> Endpoint {
    let mut is_told = false;
    loop {
        match Endpoint::bind(address).await {
            Ok(endpoint) => {
                let address = endpoint.address().unwrap_or(address);
                tracing::info!(%address, "serving metrics");
                return endpoint;
            }
            Err(error) if !is_told => {
                let error = crisp_engine::chain(&error);
                tracing::warn!(error, "metrics are served as soon as they can be");
                is_told = true;
            }
            Err(_) => {}
        }
        sleep(METRICS_RETRY).await;
    }
}

/// One daemon for one set of directories. A child that one has just made when it is killed holds the lock
/// too, until it executes its program.
async fn lock(run_dir: &Path) -> Result<Flock<File>> {
    let path = run_dir.join("daemon.lock");
    let mut file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) if Instant::now() < end => file = same,
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another crisp uses {}: stop it, or give this one a run_dir, root_dir and instance of its own",
                run_dir.display()
            ),
            Err((_, error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        sleep(LOCK_RETRY).await;
    }
}

/// The socket, in place of one that an earlier daemon left; only root may connect.
fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("removing the old socket {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .with_context(|| format!("chmod {}", path.display()))?;
    Ok(listener)
}
