//! Threads that work off a list. Each has a runtime of its own: what stories do is no business of
//! several threads, and blocks here and there.

use anyhow::{Result, bail};
use crisp_e2e::unless_interrupted;
use std::io;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use tokio::runtime::{Builder, Runtime};

/// Does the work for all jobs and hands each result over as it comes.
///
/// # Errors
/// Somebody wants the program to end. What was begun is dropped then, which ends it.
pub(crate) fn work_off<J: Send, R: Send>(
    jobs: Vec<J>,
    threads: usize,
    work: impl AsyncFn(&J) -> R + Sync,
    mut done: impl FnMut(J, R),
) -> Result<()> {
    let queue = Mutex::new(jobs.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (sender, results) = mpsc::channel();
    let run = |sender: mpsc::Sender<_>| {
        let Ok(runtime) = runtime() else { return };
        while let Some(job) = next() {
            let result = runtime.block_on(unless_interrupted(work(&job)));
            let is_interrupted = result.is_err();
            // The receiver is there for as long as this runs.
            let _ = sender.send((job, result));
            if is_interrupted {
                return;
            }
        }
    };
    let mut interrupted = false;
    thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(|| run(sender));
        }
        drop(sender);
        for (job, result) in results {
            match result {
                Ok(result) => done(job, result),
                Err(_) => interrupted = true,
            }
        }
    });
    if interrupted {
        bail!("interrupted");
    }
    Ok(())
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
