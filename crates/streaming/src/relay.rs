//! Between a process and a client's streams, from the start to the exit.

use crate::buffer::{Chunk, ReadSize};
use crate::descriptor::Descriptor;
use crate::inbox::{Inbox, Received};
use crate::outlet::Outlet;
use crate::request::{BoxFuture, Exit, Process, Start, Stdin};
use crate::resize;
use crate::status::{self, StatusForm};
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long output is waited for after the exit, when something else holds it open. All that the
/// process itself has said is there by then.
const DRAIN_QUIET: Duration = Duration::from_millis(500);
/// How much output is taken after the exit, in bytes: the most that a pipe can hold by default.
const DRAIN_MAX_BYTES: usize = 1 << 20;
/// How long an attachment may go on without its outputs before it counts as cut off.
const DETACH_GRACE: Duration = Duration::from_secs(5);
/// Ctrl-D.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Exec,
    Attach,
}

/// A client's streams.
pub(crate) struct Streams {
    pub(crate) error: Outlet,
    pub(crate) status: StatusForm,
    pub(crate) stdin: Option<Inbox>,
    pub(crate) stdout: Option<Outlet>,
    pub(crate) stderr: Option<Outlet>,
    pub(crate) resize: Option<Inbox>,
    /// The server's sides of streams on which it has nothing to say.
    pub(crate) silent: Vec<Outlet>,
}

/// Starts a process and stays with it to its end, which the client is told. Fails if the client leaves.
pub(crate) async fn run(kind: Kind, start: Start, streams: Streams) -> io::Result<()> {
    let Streams {
        error,
        status: form,
        stdin,
        stdout,
        stderr,
        resize,
        silent,
    } = streams;
    let status = match start().await {
        Ok(process) => {
            let exit = attend(kind, process, Input { stdin, resize }, [stdout, stderr]).await?;
            status::exit(form, &exit)
        }
        Err(failure) => status::failure(form, &format!("{}: {failure}", kind.complaint())),
    };
    for outlet in silent {
        outlet.finish()?;
    }
    tell(&error, &status).await
}

impl Kind {
    fn complaint(self) -> &'static str {
        match self {
            Self::Exec => "error executing command in container",
            Self::Attach => "error attaching to container",
        }
    }
}

/// Says on the error stream what came of it, and ends it.
pub(crate) async fn tell(error: &Outlet, status: &[u8]) -> io::Result<()> {
    if !status.is_empty() {
        error.send(&mut Chunk::copy_of(status)).await?;
    }
    error.finish()
}

/// What a client sends.
struct Input {
    stdin: Option<Inbox>,
    resize: Option<Inbox>,
}

/// Moves bytes until the process has ended and all it said has been sent.
async fn attend(
    kind: Kind,
    process: Process,
    input: Input,
    [stdout, stderr]: [Option<Outlet>; 2],
) -> io::Result<Exit> {
    let (ended, is_over) = watch::channel(false);
    let unusable = |error| Exit::Unknown(format!("cannot use a stream of the process: {error}"));
    let has_output = process.stdout.is_some() || process.stderr.is_some();
    let stdout = match Output::new(process.stdout, stdout, is_over.clone()) {
        Ok(output) => output.serve(),
        Err(error) => return Ok(unusable(error)),
    };
    let stderr = match Output::new(process.stderr, stderr, is_over) {
        Ok(output) => output.serve(),
        Err(error) => return Ok(unusable(error)),
    };
    let stdin = match Sink::new(process.stdin) {
        Ok(sink) => serve_stdin(sink, input.stdin),
        Err(error) => return Ok(unusable(error)),
    };
    let resizing = async {
        if let (Some(inbox), Some(resize)) = (input.resize, process.resize) {
            resize::serve(inbox, resize).await;
        }
    };
    let input = async {
        tokio::join!(stdin, resizing);
        std::future::pending().await
    };
    let output = async { tokio::try_join!(stdout, stderr).map(drop) };
    let cut_off = match kind {
        Kind::Attach if has_output => Some(DETACH_GRACE),
        _ => None,
    };
    tokio::select! {
        exit = until_the_end(process.exit, output, &ended, cut_off) => exit,
        exit = input => exit,
    }
}

/// Waits for the exit and for the outputs. With `cut_off`, outputs that end first must be followed by
/// the exit within that time.
async fn until_the_end(
    mut exit: BoxFuture<Exit>,
    output: impl Future<Output = io::Result<()>>,
    ended: &watch::Sender<bool>,
    cut_off: Option<Duration>,
) -> io::Result<Exit> {
    let mut output = pin!(output);
    let sent = tokio::select! {
        exit = &mut exit => {
            ended.send_replace(true);
            output.await?;
            return Ok(exit);
        }
        sent = &mut output => sent,
    };
    sent?;
    let Some(grace) = cut_off else {
        return Ok(exit.await);
    };
    let cut_off = "the container's output ended before the container: it was not read fast enough";
    let exit = timeout(grace, exit).await;
    Ok(exit.unwrap_or_else(|_| Exit::Unknown(cut_off.to_owned())))
}

/// One output of a process, on its way to the client.
struct Output {
    source: Option<Descriptor>,
    outlet: Option<Outlet>,
    is_over: watch::Receiver<bool>,
}

impl Output {
    fn new(
        source: Option<std::os::fd::OwnedFd>,
        outlet: Option<Outlet>,
        is_over: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        Ok(Self {
            source: source.map(Descriptor::to_read).transpose()?,
            outlet,
            is_over,
        })
    }

    /// Sends what the process says, as fast as the client takes it, and then the end.
    async fn serve(mut self) -> io::Result<()> {
        let mut size = ReadSize::default();
        let mut chunk = Chunk::with_capacity(size.bytes());
        let mut drained = 0;
        while drained < DRAIN_MAX_BYTES {
            if chunk.capacity() != size.bytes() {
                chunk = Chunk::with_capacity(size.bytes());
            }
            let Some(count) = self.read(&mut chunk).await else {
                break;
            };
            size.learn(count);
            chunk.set_len(count);
            if *self.is_over.borrow() {
                drained += count;
            }
            if let Some(outlet) = &self.outlet {
                outlet.send(&mut chunk).await?;
            }
        }
        self.outlet.map_or(Ok(()), |outlet| outlet.finish())
    }

    /// None at the end.
    async fn read(&mut self, chunk: &mut Chunk) -> Option<usize> {
        let source = self.source.as_ref()?;
        let read = source.read(chunk.space());
        let mut read = pin!(read);
        let over = async { drop(self.is_over.wait_for(|over| *over).await) };
        let count = tokio::select! {
            count = &mut read => count,
            () = over => timeout(DRAIN_QUIET, read).await.ok()?,
        };
        count.ok().filter(|count| *count > 0)
    }
}

/// Where standard input goes.
struct Sink {
    descriptor: Descriptor,
    /// What says that the input has ended, when closing does not.
    farewell: &'static [u8],
}

impl Sink {
    fn new(stdin: Option<Stdin>) -> io::Result<Option<Self>> {
        let (fd, farewell) = match stdin {
            Some(Stdin::Pipe(fd)) => (fd, &b""[..]),
            Some(Stdin::Terminal(fd)) => (fd, END_OF_TRANSMISSION),
            None => return Ok(None),
        };
        let descriptor = Descriptor::to_write(fd)?;
        Ok(Some(Self {
            descriptor,
            farewell,
        }))
    }
}

/// Passes on what the client sends, until it has no more or the process takes no more.
async fn serve_stdin(sink: Option<Sink>, inbox: Option<Inbox>) {
    let (Some(sink), Some(mut inbox)) = (sink, inbox) else {
        return;
    };
    loop {
        let written = match inbox.next().await {
            Received::Data(bytes) => sink.descriptor.write_all(&bytes).await,
            Received::End => {
                // A process that takes no more needs no end either.
                let _ = sink.descriptor.write_all(sink.farewell).await;
                return;
            }
            Received::Reset => return,
        };
        if written.is_err() {
            return;
        }
    }
}
