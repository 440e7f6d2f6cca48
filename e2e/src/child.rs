//! Processes that must not outlive the tests, however these end.

use std::io;
use std::process::{Child, Command};
use std::sync::{LazyLock, mpsc};
use std::thread;

/// A program with its arguments that the kernel kills when the thread that [`spawn`]s it ends. setpriv(1)
/// asks for that, then becomes the program: the process id stays.
pub(crate) fn bound(program: &Command) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(program.get_program())
        .args(program.get_args());
    command
}

/// Starts a program from a thread that ends with this process. The kernel's notice goes by the thread
/// that was the parent (prctl(2), `PR_SET_PDEATHSIG`), and a test's own thread ends with the test.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(start_starter);
    let (reply, answer) = mpsc::channel();
    STARTER
        .send(Order { command, reply })
        .expect("the starter never ends");
    answer.recv().expect("the starter answers every order")
}

struct Order {
    command: Command,
    reply: mpsc::Sender<io::Result<Child>>,
}

fn start_starter() -> mpsc::Sender<Order> {
    let (orders, inbox) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for mut order in inbox {
            // Nobody waits for the answer when the test has panicked meanwhile.
            let _ = order.reply.send(order.command.spawn());
        }
    });
    orders
}
