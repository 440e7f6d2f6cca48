//! Which hosts serve a registry: the registry itself, or mirrors before it (`hosts.toml`, as containerd
//! defines it; or a directory of certificates, as docker does).
//!
//! For a registry `r.example:5000` these are looked at in every configured directory, in this order, and
//! the first that exists counts: `r.example_5000_/`, `r.example:5000/`, `_default/`. Within it
//! `hosts.toml`, or else `*.crt` (authorities), `*.cert` and `*.key` (a client's certificate).

use crate::Error;
use crate::reference::split_port;
use http::{HeaderName, HeaderValue, Uri};
use serde::Deserialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The host of the default registry's API.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
/// How long connecting may take when `dial_timeout` says nothing.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest `hosts.toml`.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A host that can be asked, with all that is needed to ask it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Host {
    /// `http` or `https`.
    pub(crate) scheme: String,
    /// Host and port.
    pub(crate) authority: String,
    /// The API's root, `/v2` as a rule; no slash at the end.
    pub(crate) path: String,
    /// It is the registry itself and no mirror: it may see the credentials for it.
    pub(crate) is_origin: bool,
    /// It serves content by digest.
    pub(crate) can_pull: bool,
    /// It knows what a tag means.
    pub(crate) can_resolve: bool,
    pub(crate) tls: Tls,
    /// Sent with every request to this host.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) dial_timeout: Duration,
}

/// How a host proves who it is, and we to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tls {
    /// Files with authorities that are trusted beside the system's.
    pub(crate) authorities: Vec<PathBuf>,
    /// Files with a certificate and its key; the same when both are in one.
    pub(crate) client: Vec<(PathBuf, PathBuf)>,
    pub(crate) skip_verify: bool,
}

/// The hosts to ask for content of `registry`, in their order.
pub(crate) fn hosts(registry: &str, config_dirs: &[PathBuf]) -> Result<Vec<Host>, Error> {
    for dir in candidates(registry, config_dirs) {
        let file = dir.join("hosts.toml");
        match read(&file) {
            Ok(text) => {
                return parse(&text, registry, &dir).map_err(|reason| invalid(&file, reason));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", &file, error)),
        }
        if dir.is_dir() {
            let tls = certificates(&dir).map_err(|error| Error::io("list", &dir, error))?;
            return Ok(vec![origin(registry, tls)]);
        }
    }
    Ok(vec![origin(registry, Tls::default())])
}

fn invalid(path: &Path, reason: String) -> Error {
    Error::InvalidConfig {
        path: path.to_owned(),
        reason,
    }
}

fn candidates<'a>(
    registry: &str,
    config_dirs: &'a [PathBuf],
) -> impl Iterator<Item = PathBuf> + use<'a> {
    let mut names = vec![registry.to_owned(), "_default".to_owned()];
    if let (host, Some(port)) = split_port(registry) {
        names.insert(0, format!("{host}_{port}_"));
    }
    config_dirs
        .iter()
        .flat_map(move |dir| names.clone().into_iter().map(move |name| dir.join(name)))
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read_to_string(path)
}

/// The registry itself. One on this machine speaks http unless certificates say otherwise.
fn origin(registry: &str, tls: Tls) -> Host {
    let scheme = if is_loopback(registry) && tls == Tls::default() {
        "http"
    } else {
        "https"
    };
    let authority = if registry == "docker.io" {
        DEFAULT_REGISTRY_HOST
    } else {
        registry
    };
    Host {
        scheme: scheme.to_owned(),
        authority: authority.to_owned(),
        path: "/v2".to_owned(),
        is_origin: true,
        can_pull: true,
        can_resolve: true,
        tls,
        headers: Vec::new(),
        dial_timeout: DIAL_TIMEOUT,
    }
}

fn is_loopback(registry: &str) -> bool {
    let host = split_port(registry).0.trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Docker's directory of certificates.
fn certificates(dir: &Path) -> io::Result<Tls> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    let with = |extension: &str| {
        let has = |path: &&PathBuf| path.extension().is_some_and(|found| found == extension);
        paths.iter().filter(has).cloned().collect::<Vec<_>>()
    };
    let client = with("cert")
        .into_iter()
        .map(|cert| (cert.clone(), cert.with_extension("key")))
        .collect();
    Ok(Tls {
        authorities: with("crt"),
        client,
        skip_verify: false,
    })
}

/// `hosts.toml`. Unknown keys belong to other programs that read the same file.
#[derive(Deserialize)]
struct File {
    server: Option<String>,
    host: Option<toml::Table>,
    #[serde(flatten)]
    of_server: HostTable,
}

#[derive(Deserialize)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<String>>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    header: Option<std::collections::BTreeMap<String, OneOrMany<String>>>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// A file with certificate and key, several of them, or pairs of files.
#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Many(Vec<OneOrMany<String>>),
}

pub(crate) fn parse(text: &str, registry: &str, dir: &Path) -> Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut hosts = Vec::new();
    for (url, table) in file.host.unwrap_or_default() {
        let table: HostTable = table
            .try_into()
            .map_err(|error| format!("host {url:?}: {error}"))?;
        let mirror = host(&url, table, dir).map_err(|reason| format!("host {url:?}: {reason}"))?;
        hosts.push(mirror);
    }
    let of_registry = origin(registry, Tls::default());
    let server = match &file.server {
        Some(url) => url.clone(),
        None => format!("{}://{}", of_registry.scheme, of_registry.authority),
    };
    let server =
        host(&server, file.of_server, dir).map_err(|reason| format!("server: {reason}"))?;
    hosts.push(server);
    for host in &mut hosts {
        host.is_origin = host.authority == of_registry.authority || host.authority == registry;
    }
    Ok(hosts)
}

fn host(url: &str, table: HostTable, dir: &Path) -> Result<Host, String> {
    // A host alone means https.
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("https://{url}")
    };
    let uri: Uri = url.parse().map_err(|_| "it is not a URL".to_owned())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority())
    else {
        return Err("it is not an http or https URL".to_owned());
    };
    if authority.as_str().contains('@') || uri.query().is_some() {
        return Err("credentials and parameters do not belong into the URL".to_owned());
    }
    let given = uri.path().trim_end_matches('/');
    let is_complete = table.override_path.unwrap_or(false) || given.ends_with("/v2");
    let path = if is_complete {
        given.to_owned()
    } else {
        format!("{given}/v2")
    };
    let capabilities = table
        .capabilities
        .unwrap_or_else(|| vec!["pull".into(), "resolve".into()]);
    if let Some(unknown) = capabilities
        .iter()
        .find(|c| !["pull", "resolve", "push"].contains(&c.as_str()))
    {
        return Err(format!("unknown capability {unknown:?}"));
    }
    let can = |capability: &str| capabilities.iter().any(|given| given == capability);
    Ok(Host {
        scheme: scheme.to_owned(),
        authority: authority.as_str().to_owned(),
        path,
        is_origin: false,
        can_pull: can("pull"),
        can_resolve: can("resolve"),
        tls: tls(table.ca, table.client, table.skip_verify, dir)?,
        headers: headers(table.header.unwrap_or_default())?,
        dial_timeout: table
            .dial_timeout
            .as_deref()
            .map_or(Ok(DIAL_TIMEOUT), duration)?,
    })
}

fn tls(
    ca: Option<OneOrMany<String>>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    dir: &Path,
) -> Result<Tls, String> {
    let authorities = ca.map(OneOrMany::into_vec).unwrap_or_default();
    let client = match client {
        None => Vec::new(),
        Some(Client::One(file)) => vec![OneOrMany::One(file)],
        Some(Client::Many(files)) => files,
    };
    let pair = |files: OneOrMany<String>| match files.into_vec().as_slice() {
        [both] => Ok((dir.join(both), dir.join(both))),
        [certificate, key] if key.is_empty() => Ok((dir.join(certificate), dir.join(certificate))),
        [certificate, key] => Ok((dir.join(certificate), dir.join(key))),
        _ => Err("`client` is a list of files or of pairs of files".to_owned()),
    };
    Ok(Tls {
        authorities: authorities.iter().map(|file| dir.join(file)).collect(),
        client: client.into_iter().map(pair).collect::<Result<_, _>>()?,
        skip_verify: skip_verify.unwrap_or(false),
    })
}

fn headers(
    table: std::collections::BTreeMap<String, OneOrMany<String>>,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut headers = Vec::new();
    for (name, values) in table {
        let header: HeaderName = name
            .parse()
            .map_err(|_| format!("{name:?} is not a header"))?;
        for value in values.into_vec() {
            let mut value: HeaderValue = value
                .parse()
                .map_err(|_| format!("the value of header {name:?} is malformed"))?;
            value.set_sensitive(true);
            headers.push((header.clone(), value));
        }
    }
    Ok(headers)
}

/// Go's notation of short times: `10s`, `500ms`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000)];
    let milliseconds = units.iter().find_map(|(unit, factor)| {
        text.strip_suffix(unit)?
            .parse::<u64>()
            .ok()?
            .checked_mul(*factor)
    });
    milliseconds
        .filter(|&milliseconds| milliseconds > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("dial_timeout {text:?} is not a time such as 10s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Host>, String> {
        parse(text, "docker.io", Path::new("/certs"))
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_server_last() {
        let hosts = parsed(
            r#"
            server = "https://registry-1.docker.io"
            [host."https://z.example"]
              capabilities = ["pull"]
              ca = "z.pem"
            [host."http://a.example:5000/mirror"]
              capabilities = ["pull", "resolve"]
              skip_verify = true
              dial_timeout = "1s"
              header = { X-One = "1", X-Two = ["2", "3"] }
            [host."https://m.example/v2/path"]
              override_path = true
              client = [["c.pem", "k.pem"], ["both.pem", ""]]
            [host."b.example"]
            "#,
        )
        .unwrap();
        let names: Vec<_> = hosts
            .iter()
            .map(|host| format!("{}://{}{}", host.scheme, host.authority, host.path))
            .collect();
        assert_eq!(
            names,
            [
                "https://z.example/v2",
                "http://a.example:5000/mirror/v2",
                "https://m.example/v2/path",
                "https://b.example/v2",
                "https://registry-1.docker.io/v2"
            ]
        );
        assert!(hosts[0].can_pull && !hosts[0].can_resolve && hosts[1].can_resolve);
        assert_eq!(hosts[0].tls.authorities, [Path::new("/certs/z.pem")]);
        assert!(hosts[1].tls.skip_verify);
        assert_eq!(hosts[1].headers.len(), 3);
        assert_eq!(hosts[1].dial_timeout, Duration::from_secs(1));
        assert_eq!(
            hosts[2].tls.client[0],
            ("/certs/c.pem".into(), "/certs/k.pem".into())
        );
        assert_eq!(hosts[2].tls.client[1].0, hosts[2].tls.client[1].1);
        assert_eq!(
            hosts.iter().map(|host| host.is_origin).collect::<Vec<_>>(),
            [false, false, false, false, true]
        );
    }

    #[test]
    fn an_empty_file_means_the_registry_itself() {
        assert_eq!(parsed("").unwrap(), [origin("docker.io", Tls::default())]);
        let server = parsed(r#"server = "https://other.example""#).unwrap();
        assert!(!server[0].is_origin);
        let own = parsed("skip_verify = true").unwrap();
        assert!(own[0].is_origin && own[0].tls.skip_verify);
    }

    #[test]
    fn broken_files_are_refused_with_their_reason() {
        for (text, reason) in [
            ("server =", "TOML"),
            ("[host.\"ftp://x\"]", "http or https"),
            ("[host.\"https://u:p@x\"]", "credentials"),
            ("[host.\"https://x\"]\ncapabilities = [\"fly\"]", "fly"),
            ("[host.\"https://x\"]\ndial_timeout = \"soon\"", "soon"),
            ("[host.\"https://x\"]\nheader = { \"a b\" = \"x\" }", "a b"),
            (
                "[host.\"https://x\"]\nclient = [[\"a\", \"b\", \"c\"]]",
                "pairs",
            ),
            ("[host.\"https://x\"]\nskip_verify = \"yes\"", "host"),
            ("host = 1", "host"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_directory_that_exists_counts() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("a"), dir.path().join("b")];
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let first = |registry: &str| hosts(registry, &dirs).unwrap()[0].authority.clone();
        assert_eq!(first("r.example:5000"), "r.example:5000");
        write("b/_default/hosts.toml", "[host.\"https://default\"]");
        assert_eq!(first("r.example:5000"), "default");
        write("b/r.example:5000/hosts.toml", "[host.\"https://plain\"]");
        assert_eq!(first("r.example:5000"), "plain");
        write(
            "b/r.example_5000_/hosts.toml",
            "[host.\"https://underscores\"]",
        );
        assert_eq!(first("r.example:5000"), "underscores");
        write("a/r.example:5000/ca.crt", "");
        write("a/r.example:5000/me.cert", "");
        let [host] = &hosts("r.example:5000", &dirs).unwrap()[..] else {
            panic!()
        };
        assert_eq!(host.tls.authorities.len(), 1);
        assert!(host.tls.client[0].1.ends_with("me.key"));
        write("a/r.example:5000/hosts.toml", "server =");
        assert!(matches!(
            hosts("r.example:5000", &dirs),
            Err(Error::InvalidConfig { .. })
        ));
    }

    #[test]
    fn only_registries_on_this_machine_speak_http_by_themselves() {
        for (registry, scheme) in [
            ("localhost:5000", "http"),
            ("127.0.0.1:5000", "http"),
            ("[::1]:5000", "http"),
            ("localhost.example", "https"),
            ("10.0.0.1:5000", "https"),
        ] {
            assert_eq!(
                origin(registry, Tls::default()).scheme,
                scheme,
                "{registry}"
            );
        }
        let tls = Tls {
            skip_verify: true,
            ..Tls::default()
        };
        assert_eq!(origin("localhost", tls).scheme, "https");
    }
}
