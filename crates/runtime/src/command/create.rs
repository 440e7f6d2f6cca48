//! What the helper does to start a container.

use super::console::Console;
use super::program::Program;
use super::workspace::{ROOTFS, SPEC, Workspace};
use super::{CommandLine, complaint, or_delete, program, translate};
use crate::error::{Context, StartError};
use crate::plan::{ContainerPlan, Stdio};
use crate::report::Reporter;
use crate::spec::Container;
use crate::stage_one::{isolate, kept, limits, load, own_pipes, rootfs, sources, users};
use crisp_sys::process::Child;
use oci_spec::runtime::Spec;
use std::os::fd::AsFd;

pub(super) fn create(
    line: &CommandLine,
    plan: ContainerPlan<'_>,
    reporter: &Reporter,
    child: &Child,
) -> Result<(), StartError> {
    isolate(child, &kept(reporter, &plan.stdio, plan.borrowed()))?;
    let spec = load(plan.bundle)?;
    let container = Container::from_any_spec(&spec)?;
    let process = spec.process().clone().unwrap_or_default();
    let (workspace, spec) = furnish(line, &plan, &container, spec, child)?;
    workspace.write(SPEC, &spec)?;
    own_pipes(&plan.stdio, container.process.uid, &container.id_maps)?;
    let program = Program::new(line)?;
    let created = run_create(&program, &plan.stdio, reporter, child);
    let started = created.and_then(|()| {
        program.run(&["start", &line.id], program::Streams::None, child)?;
        reporter.ready().step("report", "")
    });
    or_delete(line, child, started).map_err(|error| complaint::explain(error, &process))
}

/// Makes everything that the runtime finds on top of its bundle.
fn furnish(
    line: &CommandLine,
    plan: &ContainerPlan<'_>,
    container: &Container,
    mut spec: Spec,
    child: &Child,
) -> Result<(Workspace, Spec), StartError> {
    let witness = child.witness();
    let users = users::namespace(container, witness)?;
    let users = users.as_ref().map(AsFd::as_fd);
    let shm = plan.shm.map(sources::own_shm).transpose()?;
    let mounts = sources::open_demanding(plan, container, users, witness)?;
    let root = rootfs::make(plan, container, users, witness)?;
    limits::prepare(&container.process)?;
    translate::keep_oom_score(&mut spec)?;
    translate::drop_hugepage_limits(&mut spec);
    let workspace = Workspace::make(&line.bundle, witness)?;
    workspace.attach_root(&root)?;
    translate::set_root(&mut spec, workspace.path().join(ROOTFS));
    spec.set_version(translate::VERSION.to_owned());
    for (place, mount) in &mounts {
        let name = format!("mount-{place}");
        workspace.attach(&name, mount)?;
        translate::bind_instead(&mut spec, *place, workspace.path().join(name));
    }
    if let Some(shm) = shm {
        workspace.attach("shm", &shm)?;
        translate::insert_shm(&mut spec, workspace.path().join("shm"))?;
    }
    Ok((workspace, spec))
}

fn run_create(
    program: &Program<'_>,
    stdio: &Stdio,
    reporter: &Reporter,
    child: &Child,
) -> Result<(), StartError> {
    let bundle = program.bundle();
    let console = Console::wanted(stdio)?;
    let mut arguments = vec![
        "create",
        "--bundle",
        bundle,
        "--pid-file",
        program::PID_FILE,
    ];
    arguments.extend(console.iter().flat_map(|console| console.arguments()));
    arguments.push(program.id());
    program.run(&arguments, program::Streams::of(stdio), child)?;
    program::adopt(reporter)?;
    match console {
        Some(console) => console.hand_over(reporter),
        None => Ok(()),
    }
}
