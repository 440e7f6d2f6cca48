//! What a driver checks of something that is up: a line for each check, and one for all of them.

use anyhow::{Result, ensure};
use std::cell::RefCell;
use std::pin::Pin;
use std::time::Instant;

type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A check by its name.
#[derive(Debug)]
pub struct Check<S> {
    pub name: &'static str,
    pub run: for<'a> fn(&'a S) -> Running<'a>,
}

/// Checks that are functions of modules, named by both.
#[macro_export]
macro_rules! checks {
    ($($module:ident::$name:ident),* $(,)?) => {
        vec![$($crate::checks::Check {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: |subject| Box::pin($module::$name(subject)),
        }),*]
    };
}

/// All checks of a driver.
#[derive(Debug)]
pub struct Suite<S> {
    /// Those that go on beside each other.
    pub together: Vec<Check<S>>,
    /// Those that others would notice, in their order.
    pub alone: Vec<Check<S>>,
    /// What cannot be checked, and why not.
    pub skipped: &'static [(&'static str, &'static str)],
}

/// How many checks came to which end.
#[derive(Debug, Default)]
pub struct Tally {
    passed: usize,
    failed: usize,
}

impl<S> Suite<S> {
    /// Those whose names contain one of the words, or all when there is no word.
    ///
    /// # Errors
    /// No check has such a name.
    pub fn wanted(mut self, words: &[String]) -> Result<Self> {
        let is_wanted = |check: &Check<S>| {
            words.is_empty() || words.iter().any(|word| check.name.contains(word.as_str()))
        };
        self.together.retain(is_wanted);
        self.alone.retain(is_wanted);
        let count = self.together.len() + self.alone.len();
        ensure!(count > 0, "no check is named so: {words:?}");
        Ok(self)
    }

    /// Runs them, and prints how each went. Each of six lanes takes the next check when it has ended one:
    /// most wait most of the time.
    pub async fn run(self, subject: &S) -> Tally {
        let tally = RefCell::new(Tally::default());
        let queue = RefCell::new(self.together.into_iter());
        let lane = async || {
            loop {
                let Some(check) = queue.borrow_mut().next() else {
                    return;
                };
                check.report(subject, &tally).await;
            }
        };
        tokio::join!(lane(), lane(), lane(), lane(), lane(), lane());
        for check in self.alone {
            check.report(subject, &tally).await;
        }
        tally.into_inner()
    }
}

impl<S> Check<S> {
    async fn report(self, subject: &S, tally: &RefCell<Tally>) {
        let start = Instant::now();
        let result = (self.run)(subject).await;
        let seconds = start.elapsed().as_secs_f32();
        let name = format!("{} ({seconds:.1} s)", self.name);
        tally.borrow_mut().report(&name, result);
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the verdicts are for whoever runs a driver"
)]
impl Tally {
    /// Prints how something went, and counts it.
    pub fn report(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                println!("ok      {name}");
                self.passed += 1;
            }
            Err(error) => {
                println!("FAILED  {name}: {error:#}");
                self.failed += 1;
            }
        }
    }

    /// Prints what was skipped and the numbers of all; whether no check failed.
    #[must_use]
    pub fn conclude(self, skipped: &[(&str, &str)]) -> bool {
        for (name, reason) in skipped {
            println!("skipped {name}: {reason}");
        }
        let Self { passed, failed } = self;
        println!(
            "{passed} passed, {failed} failed, {} skipped",
            skipped.len()
        );
        failed == 0
    }
}
