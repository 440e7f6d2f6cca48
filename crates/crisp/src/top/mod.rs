//! `crisp top`: what pods and containers use, anew every few seconds.
//!
//! Everything is the difference of two looks at the node ([`crate::usage`]). On a terminal the table is
//! drawn again and again; elsewhere, and with `--once`, it is printed once.

mod node;
mod rows;
mod screen;

use crate::client::{Client, Target};
use crate::output;
use crate::shutdown::Shutdown;
use crate::usage::WINDOW;
use anyhow::{Context, Result};
use clap::ValueEnum;
use node::NodeLook;
use rows::Order;
use screen::Screen;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::timeout;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print the table once and end, as is done where standard output is no terminal.
    #[arg(long)]
    once: bool,
    /// What comes first; in the table the key of its first letter does the same.
    #[arg(long, value_enum, default_value_t = Order::Cpu)]
    sort: Order,
    /// Seconds from one table to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

pub(crate) fn run(arguments: &Arguments, target: &Target) -> Result<ExitCode> {
    let on_terminal = stdout().is_terminal() && std::io::stdin().is_terminal();
    Client::with(target, async |client| {
        match arguments.once || !on_terminal {
            true => once(&client, arguments.sort).await,
            false => until_ended(&client, arguments).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn once(client: &Client, order: Order) -> Result<()> {
    let before = NodeLook::take(client).await?;
    tokio::time::sleep(WINDOW).await;
    let after = NodeLook::take(client).await?;
    output::result(rows::text(&before, &after, order))
}

/// Until a key or a signal ends it, also while the daemon does not answer: the terminal is as before then.
async fn until_ended(client: &Client, arguments: &Arguments) -> Result<()> {
    let shutdown = Shutdown::watch().context("watching signals")?;
    tokio::select! {
        ended = again_and_again(client, arguments) => ended,
        () = shutdown.asked() => Ok(()),
    }
}

async fn again_and_again(client: &Client, arguments: &Arguments) -> Result<()> {
    let interval = Duration::from_secs(arguments.interval);
    let mut order = arguments.sort;
    let (mut before, mut wait) = (NodeLook::take(client).await?, WINDOW);
    let mut screen = Screen::open()?;
    loop {
        let key = timeout(wait, screen.key()).await.ok();
        match key {
            Some(key) if screen::ENDS.contains(&key) => return Ok(()),
            Some(key) => order = order_of(key).unwrap_or(order),
            None => {}
        }
        let after = NodeLook::take(client).await?;
        screen.draw(&rows::text(&before, &after, order))?;
        // A key gives no time for another difference.
        if key.is_none() {
            before = after;
        }
        wait = interval;
    }
}

/// By the first letter of its name.
fn order_of(key: u8) -> Option<Order> {
    let orders = Order::value_variants().iter().copied();
    let mut named = orders.filter(|order| order.name().as_bytes().first() == Some(&key));
    named.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_order_has_a_key_that_ends_nothing() {
        for order in Order::value_variants() {
            let key = order.name().as_bytes()[0];
            assert_eq!(order_of(key), Some(*order));
            assert!(!screen::ENDS.contains(&key));
        }
        assert_eq!(order_of(b'z'), None);
    }
}
