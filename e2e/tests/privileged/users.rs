//! Whom processes run as, and with which capabilities.

use anyhow::{Context, Result, ensure};
use crisp_cri_api::v1::{
    Capability, ContainerConfig, Int64Value, LinuxContainerSecurityContext,
    SupplementalGroupsPolicy,
};
use crisp_e2e::catalog::USERS;
use crisp_e2e::{Container, Node, image_spec, security};

/// User, group and all groups, as the container's first process has them.
async fn identity(container: &Container<'_>) -> Result<String> {
    container.sh("echo $(id -u):$(id -g) $(id -G)").await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_user_of_the_image_is_found_by_id_and_by_name() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("users", |_| ()).await?;
    let expected = ["1002:0 0", "33:33 33", "1003:1004 1004", "33:1004 1004"];
    for ((name, user), expected) in USERS.into_iter().zip(expected) {
        let image = format!("registry.k8s.io/e2e/user-{name}:1");
        node.pull(&image).await?;
        let container = pod
            .start(name, |config| config.image = Some(image_spec(&image)))
            .await?;
        let identity = identity(&container).await?;
        ensure!(identity == expected, "image user {user}: {identity}");
        let status = container
            .status()
            .await?
            .user
            .and_then(|user| user.linux)
            .context("no user in the status")?;
        ensure!(
            format!("{}:{}", status.uid, status.gid)
                == expected.split(' ').next().unwrap_or_default(),
            "{status:?}"
        );
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_user_of_the_config_wins_and_groups_follow_the_policy() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("users", |_| ()).await?;
    let id = |value| Some(Int64Value { value });
    type Edit = Box<dyn Fn(&mut LinuxContainerSecurityContext)>;
    let cases: [(&str, Edit, &str); 6] = [
        (
            "id",
            Box::new(move |it| it.run_as_user = id(4711)),
            "4711:0 0",
        ),
        (
            "id-and-group",
            Box::new(move |it| (it.run_as_user, it.run_as_group) = (id(4711), id(4712))),
            "4711:4712 4712",
        ),
        (
            "name",
            Box::new(|it| "member".clone_into(&mut it.run_as_username)),
            "1000:1000 1000 50000",
        ),
        (
            "merged",
            Box::new(move |it| (it.run_as_user, it.supplemental_groups) = (id(1000), vec![777])),
            "1000:1000 777 1000 50000",
        ),
        (
            "strict",
            Box::new(move |it| {
                (it.run_as_user, it.supplemental_groups) = (id(1000), vec![777]);
                it.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
            }),
            "1000:1000 777 1000",
        ),
        (
            "root",
            Box::new(|it| it.supplemental_groups = vec![5, 6]),
            "0:0 0 5 6",
        ),
    ];
    for (name, edit, expected) in cases {
        let container = pod.start(name, |config| edit(security(config))).await?;
        let mut identity = identity(&container).await?;
        // The kernel keeps groups in no order of ours.
        let (user, groups) = identity.split_once(' ').context("no groups")?;
        let mut groups: Vec<u32> = groups
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        groups.sort_unstable();
        groups.dedup();
        identity = groups
            .iter()
            .fold(user.to_owned(), |text, group| format!("{text} {group}"));
        ensure!(identity == expected, "{name}: {identity}");
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_user_that_cannot_be_is_refused_and_never_root() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("users", |_| ()).await?;
    let group_only = pod
        .start("group-only", |config| {
            security(config).run_as_group = Some(Int64Value { value: 5 })
        })
        .await;
    ensure!(group_only.is_err(), "a group without a user");
    let too_large = pod
        .start("too-large", |config| {
            security(config).run_as_user = Some(Int64Value { value: 1 << 32 })
        })
        .await;
    ensure!(too_large.is_err(), "a user id over 32 bits");
    let unknown = pod
        .start("unknown", |config| {
            "nobody-here".clone_into(&mut security(config).run_as_username)
        })
        .await;
    let error = unknown
        .err()
        .context("a user that the image does not know")?;
    ensure!(error.message().contains("nobody-here"), "{error}");
    node.finish().await
}

fn capabilities(add: &[&str], drop: &[&str]) -> impl Fn(&mut ContainerConfig) {
    let list = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>()
    };
    let (add, drop) = (list(add), list(drop));
    move |config| {
        security(config).capabilities = Some(Capability {
            add_capabilities: add.clone(),
            drop_capabilities: drop.clone(),
            add_ambient_capabilities: Vec::new(),
        });
    }
}

/// Bits of capability.h.
const CHOWN: u64 = 1;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_capabilities_are_the_usual_ones_plus_and_minus() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("capabilities", |_| ()).await?;
    let set = async |container: &Container<'_>, name: &str| {
        let line = container.sh(&format!("grep {name} /proc/1/status")).await?;
        let bits = line.split_whitespace().nth(1).context("no bits")?;
        anyhow::Ok(u64::from_str_radix(bits, 16)?)
    };
    let usual = pod.start("usual", |_| ()).await?;
    let bits = set(&usual, "CapEff").await?;
    ensure!(
        bits & CHOWN != 0 && bits & (NET_ADMIN | SYS_ADMIN) == 0,
        "{bits:x}"
    );
    // Inheritable ones would survive a change of user (CVE-2022-29162).
    ensure!(set(&usual, "CapInh").await? == 0);

    let more = pod
        .start("more", capabilities(&["NET_ADMIN"], &["CAP_CHOWN"]))
        .await?;
    for name in ["CapEff", "CapPrm", "CapBnd"] {
        let changed = set(&more, name).await?;
        ensure!(changed == (bits | NET_ADMIN) & !CHOWN, "{name} {changed:x}");
    }
    let none = pod.start("none", capabilities(&[], &["ALL"])).await?;
    ensure!(set(&none, "CapEff").await? == 0 && set(&none, "CapBnd").await? == 0);
    let one = pod.start("one", capabilities(&["CHOWN"], &["ALL"])).await?;
    ensure!(set(&one, "CapEff").await? == CHOWN);
    let all = pod.start("all", capabilities(&["ALL"], &[])).await?;
    ensure!(set(&all, "CapEff").await? & SYS_ADMIN != 0);

    let user = pod
        .start("user", |config| {
            security(config).run_as_user = Some(Int64Value { value: 1000 })
        })
        .await?;
    ensure!(set(&user, "CapEff").await? == 0 && set(&user, "CapBnd").await? == bits);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_no_new_privs_is_as_asked() -> Result<()> {
    let node = Node::start().await?;
    let pod = node.run_pod("privileges", |_| ()).await?;
    for (name, asked) in [("free", false), ("held", true)] {
        let container = pod
            .start(name, |config| security(config).no_new_privs = asked)
            .await?;
        let line = container.sh("grep NoNewPrivs /proc/1/status").await?;
        ensure!(
            line.ends_with(if asked { "\t1" } else { "\t0" }),
            "{name}: {line}"
        );
    }
    node.finish().await
}
