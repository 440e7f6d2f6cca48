//! Looks at files of the host that may be on a file system that hangs, such as a dead NFS server's. Such
//! a look holds a thread until the file system answers, and nobody can take the thread from it. So that
//! clients that try again and again do not use up all threads, what hangs is not looked at twice.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Looks that may hang at the same time: half of the threads that the daemon has for waiting.
const HANGING_MAX: usize = 256;

/// All looks that are under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Looks(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    under_way: HashMap<u64, UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    /// What is looked at right now.
    path: String,
    since: Instant,
    patience: Patience,
}

impl UnderWay {
    fn hangs(&self) -> Error {
        Error::DeadlineExceeded {
            what: format!(
                "{}: its file system does not answer: a look at it",
                self.path
            ),
            after_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Left,
    Over,
}

impl Looks {
    /// Begins a look at these paths, unless an earlier one of them still hangs.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] with the path; [`Error::Exhausted`] when too many hang.
    pub(super) fn begin<'p>(&self, mut paths: impl Iterator<Item = &'p String>) -> Result<Look> {
        let mut table = self.table();
        let looks = table.under_way.values();
        let hanging: Vec<&UnderWay> = looks.filter(|l| l.patience == Patience::Over).collect();
        if hanging.len() >= HANGING_MAX {
            let text = format!("{HANGING_MAX} paths of the host are on file systems that hang");
            return Err(Error::Exhausted(text));
        }
        let earlier = paths.find_map(|path| hanging.iter().find(|look| look.path == *path));
        if let Some(earlier) = earlier {
            return Err(earlier.hangs());
        }
        table.next_id += 1;
        let id = table.next_id;
        let begun = UnderWay {
            path: String::new(),
            since: Instant::now(),
            patience: Patience::Left,
        };
        table.under_way.insert(id, begun);
        drop(table);
        Ok(Look(Handle {
            looks: self.clone(),
            id,
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look, in the hands of the thread that looks.
#[derive(Debug)]
pub(super) struct Look(Handle);

impl Look {
    /// Says what is looked at next.
    pub(super) fn at(&self, path: &str) {
        if let Some(look) = self.0.looks.table().under_way.get_mut(&self.0.id) {
            path.clone_into(&mut look.path);
        }
    }

    /// For who waits for the look.
    pub(super) fn handle(&self) -> Handle {
        self.0.clone()
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.0.looks.table().under_way.remove(&self.0.id);
    }
}

/// A look as others see it.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    looks: Looks,
    id: u64,
}

impl Handle {
    /// Gives up waiting for the look; it counts as hanging until it ends.
    pub(super) fn give_up(&self) -> Error {
        match self.looks.table().under_way.get_mut(&self.id) {
            Some(look) => {
                look.patience = Patience::Over;
                look.hangs()
            }
            None => Error::FailedPrecondition(
                "the mounts' host_path: looking at them ended too late".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(looks: &Looks, paths: &[&str]) -> Result<Look> {
        let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
        looks.begin(paths.iter())
    }

    #[test]
    fn what_hangs_is_not_looked_at_again_until_it_answers() {
        let looks = Looks::default();
        let look = begin(&looks, &["/a", "/dead"]).unwrap();
        look.at("/dead");
        // Nobody has lost patience yet.
        drop(begin(&looks, &["/dead"]).unwrap());
        let late = look.handle().give_up();
        assert!(late.to_string().starts_with("/dead: "), "{late}");
        let again = begin(&looks, &["/b", "/dead"]).unwrap_err();
        assert!(matches!(again, Error::DeadlineExceeded { .. }), "{again}");
        drop(begin(&looks, &["/a"]).unwrap());
        drop(look);
        drop(begin(&looks, &["/dead"]).unwrap());
    }

    #[test]
    fn looks_that_hang_are_bounded() {
        let looks = Looks::default();
        let hanging = |number: usize| {
            let path = format!("/dead/{number}");
            let look = begin(&looks, &[&path]).unwrap();
            look.at(&path);
            look.handle().give_up();
            look
        };
        let all: Vec<Look> = (0..HANGING_MAX).map(hanging).collect();
        assert!(matches!(begin(&looks, &["/a"]), Err(Error::Exhausted(_))));
        drop(all);
        drop(begin(&looks, &["/a"]).unwrap());
    }
}
