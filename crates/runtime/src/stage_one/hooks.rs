//! What the hooks of a container need before it is made.

use crate::error::{Context, StartError};
use crate::hooks::{Attendant, Run, about};
use crate::plan::ContainerPlan;
use crate::report::Reporter;
use crate::spec::{Container, Point};
use crisp_sys::namespace::Kind;
use crisp_sys::process::SingleThreaded;
use oci_spec::runtime::Spec;
use std::fs::create_dir_all;
use std::path::PathBuf;

/// What stage two needs for the hooks.
pub(crate) struct InitHooks {
    pub(crate) run: Run,
    /// If there are hooks that run outside of the container.
    pub(crate) attendant: Option<Attendant>,
    /// Where hooks expect the container's root while they see the host's files; none: no hooks do.
    pub(crate) root_place: Option<PathBuf>,
}

/// None: the container has no hooks.
pub(super) fn prepare(
    plan: &ContainerPlan<'_>,
    spec: &Spec,
    container: &Container,
    reporter: &Reporter,
    witness: &SingleThreaded,
) -> Result<Option<InitHooks>, StartError> {
    use Point::{CreateContainer, CreateRuntime, Poststart, Poststop, Prestart, StartContainer};
    let hooks = &container.hooks;
    if hooks.any_at(&[Poststop]) {
        // The caller that is gone has nobody wait for the container's end either.
        let _ = reporter.poststop_hooks();
    }
    let while_made = hooks.any_at(&[Prestart, CreateRuntime, CreateContainer]);
    if !while_made && !hooks.any_at(&[StartContainer, Poststart]) {
        return Ok(None);
    }
    let run = Run::new(hooks.clone(), about(plan.id, plan.bundle, spec));
    let attendant = match hooks.any_at(&[Prestart, CreateRuntime, Poststart]) {
        true => Some(Attendant::spawn(&run, witness)?),
        false => None,
    };
    let root_place = match while_made {
        true => Some(root_place(plan, container)?),
        false => None,
    };
    Ok(Some(InitHooks {
        run,
        attendant,
        root_place,
    }))
}

/// The root's place in the bundle, as the spec names it. Root of a user namespace is nobody to the
/// bundle's directories, and could neither mount there nor let a hook read there.
fn root_place(plan: &ContainerPlan<'_>, container: &Container) -> Result<PathBuf, StartError> {
    if container.namespaces.has(Kind::User) {
        return Err(StartError::invalid(
            "hooks before the start (prestart, createRuntime, createContainer) are not supported \
             in a user namespace",
        ));
    }
    let place = plan.bundle.join(&container.root.path);
    create_dir_all(&place).step("make directory", &place)?;
    Ok(place)
}
