//! The names of the RPCs.

/// An RPC of the CRI or of crisp's own service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// `/package.Service/Name`, as in a request.
    pub path: &'static str,
    /// Without the package.
    pub service: &'static str,
    pub name: &'static str,
}

/// All of them, as `proto/` has them.
const METHODS: &[Method] = &include!(concat!(env!("OUT_DIR"), "/methods.rs"));

impl Method {
    /// The RPC that a request's path is for; none when there is no such RPC.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        METHODS.iter().copied().find(|method| method.path == path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rpc_is_known_by_its_path() {
        let method = Method::of_path("/runtime.v1.RuntimeService/RunPodSandbox");
        let method = method.map(|method| (method.service, method.name));
        assert_eq!(method, Some(("RuntimeService", "RunPodSandbox")));
        assert!(Method::of_path("/crisp.node.v1.Node/Inspect").is_some());
        assert_eq!(Method::of_path("/runtime.v1.RuntimeService/NoSuch"), None);
    }
}
