//! Debian's docker-registry, and what it serves.
//!
//! Images are written into the registry's own storage (distribution, registry/storage/paths.go)
//! instead of pushed: a push would be refused for the broken ones that tests need.

use crate::child;
use crate::image::{Digest, Document, Image};
use crate::net::free_address;
use crate::slot::Slot;
use crate::{catalog, tools};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

/// The public registries that it stands in for.
pub const MIRRORED: [&str; 5] = [
    "docker.io",
    "gcr.io",
    "k8s.gcr.io",
    "public.ecr.aws",
    "registry.k8s.io",
];

/// A line of htpasswd(1) for [`Registry::CREDENTIALS`], hashed by bcrypt.
const USERS: &str = "puller:$2b$04$lntz4LvJih3uqjlFPeXtv.gYzOKuAi6Dq2kJlqRL6mqmy.rzh52/G\n";

/// Who may pull.
#[derive(Debug, Clone, Copy)]
enum Access {
    Anyone,
    Password,
}

/// A registry over plain http, on loopback unless others are to reach it. One serves all tests of a process, and ends with it.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    slot: Slot,
    /// Nobody waits for it: it ends with this process.
    _server: Child,
}

impl Registry {
    /// The registry of this process, with the images of the catalog.
    #[must_use]
    pub fn shared() -> &'static Self {
        Self::shared_at(Ipv4Addr::LOCALHOST)
    }

    /// The same, for machines that loopback does not reach: it listens where the first one wants it who
    /// asks.
    #[must_use]
    pub fn shared_at(ip: Ipv4Addr) -> &'static Self {
        static REGISTRY: OnceLock<Registry> = OnceLock::new();
        REGISTRY.get_or_init(|| {
            let registry = Registry::start(ip, Access::Anyone);
            catalog::publish(&registry);
            registry
        })
    }

    /// Who may pull from [`Self::private`]: as `user:password`, and the same in base64.
    pub const CREDENTIALS: [&str; 2] = ["puller:e2e-secret", "cHVsbGVyOmUyZS1zZWNyZXQ="];

    /// Another one, with busybox alone and for those with [`Self::CREDENTIALS`] only.
    #[must_use]
    pub fn private() -> &'static Self {
        static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
            let registry = Registry::start(Ipv4Addr::LOCALHOST, Access::Password);
            let image = Image::new(vec![catalog::busybox_layer()]);
            registry.publish("library/busybox", "1.35", &image);
            registry
        });
        &REGISTRY
    }

    fn start(ip: Ipv4Addr, access: Access) -> Self {
        let slot = Slot::take();
        let address = free_address(ip).expect("this machine has a free port");
        let auth = match access {
            Access::Anyone => String::new(),
            Access::Password => {
                let users = slot.dir().join("users");
                fs::write(&users, USERS).expect("the slot can be written");
                format!(
                    "auth: {{htpasswd: {{realm: e2e, path: {}}}}}\n",
                    users.display()
                )
            }
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n{auth}",
            slot.dir().display()
        );
        let config_path = slot.dir().join("config.yml");
        fs::write(&config_path, config).expect("the slot can be written");
        let log =
            fs::File::create(slot.dir().join("registry.log")).expect("the slot can be written");
        let mut serve = child::bound(&Command::new(tools::debian("usr/bin/docker-registry")));
        serve
            .arg("serve")
            .arg(config_path)
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log);
        let registry = Self {
            address,
            slot,
            _server: child::spawn(serve).expect("the registry starts"),
        };
        registry.await_ready();
        registry
    }

    fn await_ready(&self) {
        for _ in 0..500 {
            if TcpStream::connect(self.address).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the registry does not listen on {}", self.address);
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes the directories by which runtimes find it in the place of public registries
    /// (containerd, docs/hosts.md).
    ///
    /// # Errors
    /// They cannot be written.
    pub fn mirror(&self, certs_dir: &Path) -> io::Result<()> {
        MIRRORED
            .into_iter()
            .try_for_each(|public| self.serve_as(public, certs_dir))
    }

    /// Writes how it is found in the place of one registry.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn serve_as(&self, name: &str, certs_dir: &Path) -> io::Result<()> {
        // The server that is asked when the mirror has not what is wanted: not the public one, so that
        // tests have no say in what the outside answers.
        let address = self.address;
        let hosts = format!(
            "server = \"http://{address}\"\n[host.\"http://{address}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        let dir = certs_dir.join(name);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("hosts.toml"), &hosts)
    }

    /// Makes an image available as `repository:tag`; the digest is its manifest's.
    pub fn publish(&self, repository: &str, tag: &str, image: &Image) -> Digest {
        self.put_image(repository, image);
        self.put_manifest(repository, Some(tag), &image.manifest())
    }

    /// Makes images for several platforms available under one tag; the digest is their index's.
    pub fn publish_index(&self, repository: &str, tag: &str, images: &[Image]) -> Digest {
        for image in images {
            self.put_image(repository, image);
            self.put_manifest(repository, None, &image.manifest());
        }
        self.put_manifest(repository, Some(tag), &Image::index(images))
    }

    /// Serves other bytes under a digest from now on.
    pub fn tamper(&self, digest: &Digest, bytes: &[u8]) {
        fs::write(self.blob_path(digest), bytes).expect("the blob was published");
    }

    fn put_image(&self, repository: &str, image: &Image) {
        let config = image.config();
        let layers = image.layers.iter().map(|layer| layer.blob.as_slice());
        for blob in layers.chain([config.bytes.as_slice()]) {
            let digest = self.put_blob(blob);
            let place = format!(
                "repositories/{repository}/_layers/sha256/{}/link",
                digest.hex()
            );
            self.write(&place, digest.to_string().as_bytes());
        }
    }

    fn put_manifest(&self, repository: &str, tag: Option<&str>, manifest: &Document) -> Digest {
        let digest = self.put_blob(&manifest.bytes);
        let manifests = format!("repositories/{repository}/_manifests");
        let link = digest.to_string();
        self.write(
            &format!("{manifests}/revisions/sha256/{}/link", digest.hex()),
            link.as_bytes(),
        );
        if let Some(tag) = tag {
            self.write(
                &format!("{manifests}/tags/{tag}/current/link"),
                link.as_bytes(),
            );
            self.write(
                &format!("{manifests}/tags/{tag}/index/sha256/{}/link", digest.hex()),
                link.as_bytes(),
            );
        }
        digest
    }

    fn put_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        // Several tests publish images with the same layers: never write a blob that may be read.
        if !path.exists() {
            fs::create_dir_all(path.parent().expect("a blob is in a directory"))
                .expect("the slot can be written");
            let written = path.with_extension(format!("{:?}", std::thread::current().id()));
            fs::write(&written, bytes)
                .and_then(|()| fs::rename(&written, &path))
                .expect("the slot can be written");
        }
        digest
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.storage()
            .join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    fn write(&self, place: &str, content: &[u8]) {
        let path = self.storage().join(place);
        fs::create_dir_all(path.parent().expect("a link is in a directory"))
            .expect("the slot can be written");
        fs::write(path, content).expect("the slot can be written");
    }

    fn storage(&self) -> PathBuf {
        self.slot.dir().join("docker/registry/v2")
    }
}
