//! What a container's file tree protects, and its devices.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::Device;
use crisp_e2e::{Node, allow_privileged, security};

#[tokio::test(flavor = "multi_thread")]
async fn privileged_paths_are_masked_and_read_only_as_sent() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("paths", |_| ()).await?;
    let open = pod.start("open", |_| ()).await?;
    ensure!(open.sh("cat /proc/timer_list | head -c 1 | wc -c").await? == "1");
    let held = pod
        .start("held", |config| {
            let security = security(config);
            // Paths that do not exist are sent as well.
            security.masked_paths = [
                "/proc/timer_list",
                "/sys/firmware",
                "/proc/acpi",
                "/proc/no-such",
            ]
            .map(str::to_owned)
            .to_vec();
            security.readonly_paths = ["/proc/sys", "/proc/irq"].map(str::to_owned).to_vec();
        })
        .await?;
    ensure!(held.sh("cat /proc/timer_list | wc -c").await? == "0");
    ensure!(held.sh("ls /sys/firmware | wc -l").await? == "0");
    let write = held
        .exec(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        .await?;
    ensure!(write.stderr.contains("Read-only file system"), "{write:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_root_file_system_is_read_only_when_asked() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("root", |_| ()).await?;
    let container = pod
        .start("main", |config| security(config).readonly_rootfs = true)
        .await?;
    let write = container.exec(&["touch", "/file"]).await?;
    ensure!(
        write.code != 0 && write.stderr.contains("Read-only file system"),
        "{write:?}"
    );
    container
        .sh("touch /dev/shm/file && test -s /etc/resolv.conf")
        .await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_has_the_devices_that_programs_expect_and_no_others() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("devices", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    container
        .sh("for it in null zero full random urandom tty; do test -c /dev/$it || exit 1; done")
        .await?;
    container
        .sh("echo text > /dev/null && head -c 4 /dev/urandom | wc -c | grep -q 4")
        .await?;
    container.sh("for it in fd stdin stdout stderr; do test -L /dev/$it || exit 1; done; test -d /dev/pts && test -e /dev/ptmx").await?;
    ensure!(container.sh("stat -c %a /dev/shm").await? == "1777");
    ensure!(
        container
            .sh("ls /dev | grep -c -E '^(vda|sda|kmsg|mem|kvm)$' || true")
            .await?
            == "0"
    );
    // Making a node is allowed (MKNOD is a usual capability), opening it is not: /dev/kmsg is 1:11.
    let open = container
        .exec(&["sh", "-c", "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg"])
        .await?;
    ensure!(
        open.code != 0 && open.stderr.contains("Operation not permitted"),
        "{open:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_device_of_the_host_is_given_with_its_permissions() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("devices", |_| ()).await?;
    let device = |host_path: &str, container_path: &str, permissions: &str| Device {
        host_path: host_path.to_owned(),
        container_path: container_path.to_owned(),
        permissions: permissions.to_owned(),
    };
    let container = pod
        .start("main", |config| {
            config.devices = vec![
                device("/dev/zero", "/dev/given", "rw"),
                device("/dev/kmsg", "/dev/read-only", "r"),
            ]
        })
        .await?;
    ensure!(container.sh("head -c 3 /dev/given | wc -c").await? == "3");
    let write = container
        .exec(&["sh", "-c", "echo text > /dev/read-only"])
        .await?;
    ensure!(
        write.code != 0 && write.stderr.contains("Operation not permitted"),
        "{write:?}"
    );
    let missing = pod
        .start("missing", |config| {
            config.devices = vec![device("/dev/no-such", "/dev/x", "rwm")]
        })
        .await;
    let error = missing.err().context("a device that the host has not")?;
    ensure!(error.message().contains("/dev/no-such"), "{error}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_is_privileged_only_in_a_pod_that_allows_it() -> Result<()> {
    let node = Node::start().await?;
    let plain = node.run_pod("plain", |_| ()).await?;
    ensure!(
        plain
            .start("main", |config| security(config).privileged = true)
            .await
            .is_err()
    );

    let pod = node.run_pod("mighty", allow_privileged).await?;
    let modest = pod.start("modest", |_| ()).await?;
    ensure!(
        modest
            .exec(&["mount", "-t", "tmpfs", "none", "/tmp"])
            .await?
            .code
            != 0
    );
    let mighty = pod
        .start("mighty", |config| security(config).privileged = true)
        .await?;
    mighty
        .sh("mount -t tmpfs none /tmp && touch /tmp/file && umount /tmp")
        .await?;
    mighty
        .sh("test -c /dev/kmsg && head -c 1 /dev/kmsg > /dev/null")
        .await?;
    ensure!(
        mighty
            .sh("grep ' /sys ' /proc/mounts | grep -c 'rw,'")
            .await?
            == "1"
    );
    ensure!(
        modest
            .sh("grep ' /sys ' /proc/mounts | grep -c 'ro,'")
            .await?
            == "1"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_container_sees_only_its_own_mounts_and_descriptors() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("closed", |_| ()).await?;
    let container = pod.start("main", |_| ()).await?;
    let mounts = container.sh("cut -d ' ' -f 2 /proc/mounts").await?;
    ensure!(
        !mounts.contains("/var/lib") && !mounts.contains("/run/"),
        "{mounts}"
    );
    // Standard input, output and error; an exec'd shell's listing adds the directory it reads.
    ensure!(container.sh("ls /proc/1/fd | tr '\\n' ' '").await? == "0 1 2");
    node.finish().await
}
