//! The standard streams of one container: what it writes goes to its log and to all attached clients,
//! what clients write goes to it. Nobody waits for anybody.

use crate::client::{Client, Wanted};
use crate::lines::Stream;
use crate::log::Log;
use crate::output::{Output, ReadOnce};
use crate::poller::{Event, Interest, Key, Poller, Readiness};
use crate::scratch::Scratch;
use crate::stdin::{Flow, INPUT_BYTES, Lifetime, Medium, Stdin};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::{pipe2, read};
use std::os::fd::{AsFd, OwnedFd};

/// Clients attached to one container at a time.
const MAX_CLIENTS: usize = 16;

/// Whether a container has standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    None,
    Until(Lifetime),
}

/// A client cannot be attached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("{MAX_CLIENTS} clients are attached to the container already")]
    TooMany,
    #[error("make pipes for the client")]
    Io(#[from] Errno),
}

/// The shim's side of a container's standard streams.
#[derive(Debug)]
pub(crate) struct Stdio {
    poller: Poller,
    key: Key,
    stdin: Stdin,
    stdout: Output,
    stderr: Output,
    /// The master, kept for its size.
    terminal: Option<OwnedFd>,
    log: Log,
    clients: Vec<Client>,
}

impl Stdio {
    /// Streams that lead nowhere yet.
    pub(crate) fn new(poller: &Poller, key: Key, log: Log) -> Self {
        Self {
            poller: poller.clone(),
            key,
            stdin: Stdin::none(),
            stdout: Output::none(Stream::Stdout),
            stderr: Output::none(Stream::Stderr),
            terminal: None,
            log,
            clients: Vec::new(),
        }
    }

    /// Makes pipes; returns the container's ends: standard input, output, error.
    pub(crate) fn open_pipes(&mut self, input: Input) -> nix::Result<[OwnedFd; 3]> {
        let (stdout, their_stdout) = pipe()?;
        let (stderr, their_stderr) = pipe()?;
        nonblocking(&stdout)?;
        nonblocking(&stderr)?;
        self.stdout
            .set_source(&self.poller, stdout, Event::Stdout(self.key))?;
        self.stderr
            .set_source(&self.poller, stderr, Event::Stderr(self.key))?;
        let their_stdin = match input {
            Input::None => open_null()?,
            Input::Until(lifetime) => {
                let (theirs, ours) = pipe()?;
                nonblocking(&ours)?;
                self.stdin = Stdin::new(&self.poller, self.key, ours, Medium::Pipe, lifetime)?;
                theirs
            }
        };
        Ok([their_stdin, their_stdout, their_stderr])
    }

    /// Reads and writes the container's terminal, by its master.
    pub(crate) fn open_terminal(&mut self, master: OwnedFd, input: Input) -> nix::Result<()> {
        nonblocking(&master)?;
        self.stdout
            .set_source(&self.poller, duplicate(&master)?, Event::Stdout(self.key))?;
        if let Input::Until(lifetime) = input {
            let sink = duplicate(&master)?;
            self.stdin = Stdin::new(&self.poller, self.key, sink, Medium::Terminal, lifetime)?;
        }
        self.terminal = Some(master);
        Ok(())
    }

    /// The terminal's master, if there is one.
    pub(crate) fn terminal(&self) -> Option<&OwnedFd> {
        self.terminal.as_ref()
    }

    pub(crate) fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    /// Passes on what the container wrote.
    pub(crate) fn output_ready(&mut self, stream: Stream, scratch: &mut Scratch) {
        let output = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let (clients, mut slow) = (&self.clients, Vec::new());
        let outcome = output.turn(&mut self.log, scratch, |text| {
            let refusing = clients.iter().filter(|client| !client.offer(stream, text));
            slow = refusing.map(Client::key).collect();
        });
        for key in slow {
            self.detach(key);
        }
        if outcome == ReadOnce::End {
            self.end_clients_output(stream);
        }
    }

    /// Reads the rest of an ended container's output, and lets go of everything.
    pub(crate) fn finish(&mut self, scratch: &mut Scratch) {
        for (stream, output) in [
            (Stream::Stdout, &mut self.stdout),
            (Stream::Stderr, &mut self.stderr),
        ] {
            let clients = &mut self.clients;
            let copy = |text: &[u8]| clients.retain(|client| client.offer(stream, text));
            output.drain(&mut self.log, scratch, copy);
        }
        self.clients.clear();
        self.stdin.abort();
        self.terminal = None;
    }

    /// Attaches a client; returns the descriptors for the daemon.
    pub(crate) fn attach(&mut self, key: Key, wanted: Wanted) -> Result<Vec<OwnedFd>, AttachError> {
        if self.clients.len() >= MAX_CLIENTS {
            return Err(AttachError::TooMany);
        }
        let wanted = Wanted {
            stdin: wanted.stdin && self.stdin.is_open(),
            stdout: wanted.stdout,
            stderr: wanted.stderr && self.terminal.is_none(),
        };
        let (mut client, fds) = Client::new(&self.poller, key, wanted)?;
        for (stream, output) in [
            (Stream::Stdout, &self.stdout),
            (Stream::Stderr, &self.stderr),
        ] {
            if !output.is_open() {
                client.end(stream);
            }
        }
        self.clients.push(client);
        self.update_flow();
        Ok(fds)
    }

    /// Whether this client is attached here.
    pub(crate) fn has_client(&self, key: Key) -> bool {
        self.clients.iter().any(|client| client.key() == key)
    }

    /// A client is gone, or is to be.
    pub(crate) fn detach(&mut self, key: Key) {
        let Some(index) = self.clients.iter().position(|client| client.key() == key) else {
            return;
        };
        if self.clients.swap_remove(index).input.is_some() {
            self.stdin.client_ended();
        }
        self.update_flow();
    }

    /// Passes on what a client wrote.
    pub(crate) fn input_ready(&mut self, key: Key) {
        if self.stdin.flow() != Flow::Open {
            return;
        }
        let Some(client) = self.clients.iter_mut().find(|client| client.key() == key) else {
            return;
        };
        let Some(socket) = &client.input else {
            return;
        };
        let mut bytes = [0; INPUT_BYTES];
        match read(&**socket, &mut bytes) {
            Ok(count @ 1..) => self.stdin.push(&bytes[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(_) | Err(_) => {
                client.input = None;
                self.stdin.client_ended();
            }
        }
        self.update_flow();
    }

    /// The container takes input, or its end of it is closed.
    pub(crate) fn stdin_ready(&mut self, ready: Readiness) {
        if ready.hung_up() {
            self.stdin.abort();
        } else {
            self.stdin.flush();
        }
        self.update_flow();
    }

    /// Closes the container's input.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin.close();
        self.update_flow();
    }

    fn end_clients_output(&mut self, stream: Stream) {
        for client in &mut self.clients {
            client.end(stream);
        }
        self.update_flow();
    }

    /// Lets clients write just when the container can take it, and forgets those that are over.
    fn update_flow(&mut self) {
        let flow = self.stdin.flow();
        for client in &mut self.clients {
            match (flow, &client.input) {
                (Flow::Open, Some(socket)) => socket.set_interest(Interest::Read),
                (Flow::Held, Some(socket)) => socket.set_interest(Interest::Paused),
                (Flow::Closed, _) => client.input = None,
                (_, None) => {}
            }
        }
        self.clients.retain(|client| !client.is_over());
    }
}

/// A pipe whose ends are closed on exec: the reading one, the writing one.
pub(crate) fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC)
}

/// Each end of a pipe has its own flags, so this does not reach the container's.
pub(crate) fn nonblocking(fd: impl AsFd) -> nix::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// Standard input for whoever has none.
pub(crate) fn open_null() -> nix::Result<OwnedFd> {
    open(
        "/dev/null",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

pub(crate) fn duplicate(fd: &OwnedFd) -> nix::Result<OwnedFd> {
    fd.try_clone()
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))
}
