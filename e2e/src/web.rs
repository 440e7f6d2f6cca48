//! A web server as a container.

use crate::catalog::{NGINX, NGINX_PAGE};
use crate::net::http_get;
use crate::node::image_spec;
use crate::wait::until;
use anyhow::Result;
use crisp_cri_api::v1::ContainerConfig;
use std::net::SocketAddr;

/// Has a container run its image's own command: nginx on port 80.
pub fn nginx(config: &mut ContainerConfig) {
    config.image = Some(image_spec(NGINX));
    config.command.clear();
}

/// Waits until a server gives the page of [`NGINX`].
///
/// # Errors
/// It does not.
pub async fn await_page(server: impl Into<SocketAddr>) -> Result<()> {
    let server = server.into();
    until(&format!("a page of {server}"), async || {
        http_get(server, "/")
            .await
            .is_ok_and(|page| page.ends_with(NGINX_PAGE))
            .then_some(())
    })
    .await
}
