//! Looks at files of the host that may be on a file system that hangs, such as a dead NFS server's. Such
//! a look holds a thread until the file system answers, and nobody can take the thread from it. So that
//! clients that try again and again do not use up all threads, what hangs is not looked at twice.

use crate::engine::blocking;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long the file systems of the host may take to show what is looked at: one that hangs must not hold
/// up the node.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at the same time, each of which may come to hang: half of the threads that the daemon has for
/// waiting.
const LOOKS_MAX: usize = 256;

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
        let path = &self.path;
        let what = format!("{path}: its file system does not answer: a look at it");
        Error::late(what, self.since.elapsed())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Left,
    Over,
}

impl Looks {
    /// Does in a thread what looks at these paths, and says at each that it is there now. When it takes too
    /// long, the thread is left to itself.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] with the path that hangs, now or since an earlier look;
    /// [`Error::Exhausted`] when too many looks are under way.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        paths: &[String],
        work: impl FnOnce(&Look) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let look = self.begin(paths)?;
        let handle = look.handle();
        match timeout(LOOK_TIMEOUT, blocking(move || work(&look))).await {
            Ok(done) => done,
            Err(_) => Err(handle.give_up()),
        }
    }

    fn begin(&self, paths: &[String]) -> Result<Look> {
        let mut table = self.table();
        let mut looks = table.under_way.values();
        let hanging = looks.find(|l| l.patience == Patience::Over && paths.contains(&l.path));
        if let Some(earlier) = hanging {
            return Err(earlier.hangs());
        }
        if table.under_way.len() >= LOOKS_MAX {
            let text = format!("{LOOKS_MAX} looks at paths of the host are under way");
            return Err(Error::Exhausted(text));
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

    /// The only one.
    #[cfg(test)]
    pub(super) fn alone() -> Self {
        Looks::default().begin(&[]).expect("none is under way")
    }

    /// For who waits for the look.
    fn handle(&self) -> Handle {
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
struct Handle {
    looks: Looks,
    id: u64,
}

impl Handle {
    /// Gives up waiting for the look; it counts as hanging until it ends.
    fn give_up(&self) -> Error {
        match self.looks.table().under_way.get_mut(&self.id) {
            Some(look) => {
                look.patience = Patience::Over;
                look.hangs()
            }
            None => Error::FailedPrecondition(
                "paths of the host: looking at them ended too late".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(looks: &Looks, paths: &[&str]) -> Result<Look> {
        let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
        looks.begin(&paths)
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
    fn looks_are_bounded_whether_or_not_they_are_known_to_hang() {
        let looks = Looks::default();
        let all: Vec<Look> = (0..LOOKS_MAX)
            .map(|_| begin(&looks, &["/dead"]).unwrap())
            .collect();
        all[0].at("/dead");
        all[0].handle().give_up();
        let known = begin(&looks, &["/dead"]).unwrap_err();
        assert!(matches!(known, Error::DeadlineExceeded { .. }), "{known}");
        assert!(matches!(begin(&looks, &["/a"]), Err(Error::Exhausted(_))));
        drop(all);
        drop(begin(&looks, &["/a"]).unwrap());
    }
}
