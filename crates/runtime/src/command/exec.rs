//! What the helper does to execute one more process in a container.

use super::console::Console;
use super::program::{self, Program};
use super::workspace::{PROCESS, Workspace};
use super::{CommandLine, complaint, translate};
use crate::error::{Context, StartError};
use crate::plan::ExecPlan;
use crate::report::Reporter;
use crate::spec::ProcessPlan;
use crate::stage_one::{isolate, kept, limits, own_pipes, users};
use crisp_sys::process::Child;

pub(super) fn exec(
    line: &CommandLine,
    plan: ExecPlan<'_>,
    reporter: &Reporter,
    child: &Child,
) -> Result<(), StartError> {
    isolate(child, &kept(reporter, &plan.stdio, []))?;
    let process = ProcessPlan::from_spec(plan.process, None)?;
    own_pipes(&plan.stdio, process.uid, &users::maps_of(plan.init)?)?;
    limits::prepare(&process)?;
    let mut described = plan.process.clone();
    translate::keep_oom_score_of(&mut described)?;
    let workspace = Workspace::make(&line.bundle, child.witness())?;
    workspace.write(PROCESS, &described)?;
    let program = Program::new(line)?;
    let console = Console::wanted(&plan.stdio)?;
    let mut arguments = vec!["exec", "--process", PROCESS, "--detach"];
    arguments.extend(["--pid-file", program::PID_FILE]);
    arguments.extend(console.iter().flat_map(|console| console.arguments()));
    arguments.push(&line.id);
    program
        .run(&arguments, program::Streams::of(&plan.stdio), child)
        .map_err(|error| complaint::explain(error, plan.process))?;
    program::adopt(reporter)?;
    if let Some(console) = console {
        console.hand_over(reporter)?;
    }
    reporter.ready().step("report", "")
}
