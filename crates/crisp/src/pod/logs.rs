//! `crisp pod logs`: reads the file that the container's status names.

use super::logfile::{Printer, Timestamps};
use crate::client::Client;
use crate::names::{Snapshot, container_name};
use anyhow::{Context, Result, bail};
use crisp_cri_api::v1::ContainerState;
use crisp_model::log::{Entry, Tail};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a log that is followed is looked at.
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A name, namespace/name or id.
    pod: String,
    /// The container, when the pod has several.
    container: Option<String>,
    /// Go on until the container ends.
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines.
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
    /// Show when each line was written.
    #[arg(long)]
    timestamps: bool,
}

pub(super) async fn run(arguments: &Arguments, client: &Client) -> Result<()> {
    let snapshot = Snapshot::take(client).await?;
    let pod = snapshot.pod(&arguments.pod)?;
    let container = snapshot.container(pod, arguments.container.as_deref())?;
    let status = client.container_status(&container.id).await?;
    if status.log_path.is_empty() {
        bail!(
            "container {} was made without a log",
            container_name(container)
        );
    }
    let mut printer = Printer::new(match arguments.timestamps {
        true => Timestamps::Shown,
        false => Timestamps::Hidden,
    });
    let mut log = Log::open(Path::new(&status.log_path))?;
    match arguments.tail {
        Some(lines) => log.print_tail(&mut printer, lines)?,
        None => log.print(&mut printer)?,
    }
    if arguments.follow {
        follow(client, &container.id, &mut log, &mut printer).await?;
    }
    Ok(())
}

/// Shows what is added until the container has ended and all was shown.
async fn follow(client: &Client, id: &str, log: &mut Log, printer: &mut Printer) -> Result<()> {
    loop {
        // Asked first: what was written before the end is in the file then.
        let goes_on = may_write(client, id).await?;
        log.print(printer)?;
        if log.was_rotated() {
            *log = Log::open(&log.path)?;
            log.print(printer)?;
        }
        if !goes_on {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn may_write(client: &Client, id: &str) -> Result<bool> {
    let status = client.find_container_status(id).await?;
    Ok(status.is_some_and(|status| {
        matches!(
            status.state(),
            ContainerState::ContainerCreated | ContainerState::ContainerRunning
        )
    }))
}

/// A log file and how far it was read.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    /// None: the container has not started yet.
    file: Option<BufReader<File>>,
    /// The beginning of a line that is still being written.
    begun: Vec<u8>,
}

impl Log {
    fn open(path: &Path) -> Result<Self> {
        let file = match File::open(path) {
            Ok(file) => Some(BufReader::new(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            begun: Vec::new(),
        })
    }

    /// The next line that is there wholly, without its newline.
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(file) = &mut self.file else {
            return Ok(None);
        };
        let read = file.read_until(b'\n', &mut self.begun);
        read.with_context(|| format!("reading {}", self.path.display()))?;
        if self.begun.pop_if(|last| *last == b'\n').is_none() {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.begun)))
    }

    /// Shows what is there and was not shown.
    fn print(&mut self, printer: &mut Printer) -> Result<()> {
        while let Some(line) = self.line()? {
            if let Some(entry) = Entry::parse(&line) {
                printer.print(&entry)?;
            }
        }
        Ok(())
    }

    fn print_tail(&mut self, printer: &mut Printer, lines: usize) -> Result<()> {
        let mut tail = Tail::new(lines);
        while let Some(line) = self.line()? {
            tail.push(&line);
        }
        tail.entries().try_for_each(|entry| printer.print(&entry))
    }

    /// Whether there is another file at the path by now.
    fn was_rotated(&self) -> bool {
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let now = fs::metadata(&self.path).ok().map(inode);
        let read = self
            .file
            .as_ref()
            .and_then(|file| file.get_ref().metadata().ok())
            .map(inode);
        now.is_some() && now != read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_are_taken_when_they_are_whole_and_a_new_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path).unwrap();
        assert_eq!(log.line().unwrap(), None);
        let mut file = File::create(&path).unwrap();
        assert!(log.was_rotated());
        log = Log::open(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(log.line().unwrap().unwrap(), b"one");
        assert_eq!(log.line().unwrap(), None);
        file.write_all(b"o\n").unwrap();
        assert_eq!(log.line().unwrap().unwrap(), b"two");
        assert!(!log.was_rotated());
        fs::rename(&path, dir.path().join("old")).unwrap();
        assert!(!log.was_rotated());
        File::create(&path).unwrap();
        assert!(log.was_rotated());
    }
}
