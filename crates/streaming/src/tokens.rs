//! Tokens: each stands for one request, is good once, and not for long.

use crate::error::Error;
use crate::request::{PortForwardRequest, ProcessRequest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// 128 bits: other processes on the node can reach the server, and must not be able to guess.
const TOKEN_BYTES: usize = 16;

/// What a token stands for.
#[derive(Debug)]
pub(crate) enum Request {
    Exec(ProcessRequest),
    Attach(ProcessRequest),
    PortForward(PortForwardRequest),
}

/// The kind of a request, which is the first part of its URL's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Exec,
    Attach,
    PortForward,
}

impl Purpose {
    pub(crate) const ALL: [Self; 3] = [Self::Exec, Self::Attach, Self::PortForward];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }
}

impl Request {
    pub(crate) fn purpose(&self) -> Purpose {
        match self {
            Self::Exec(_) => Purpose::Exec,
            Self::Attach(_) => Purpose::Attach,
            Self::PortForward(_) => Purpose::PortForward,
        }
    }
}

#[derive(Debug)]
struct Ticket {
    request: Request,
    expires: Instant,
}

/// The tokens that clients may still present.
#[derive(Debug)]
pub(crate) struct Tokens {
    ttl: Duration,
    max: usize,
    tickets: Mutex<HashMap<String, Ticket>>,
}

impl Tokens {
    pub(crate) fn new(ttl: Duration, max: usize) -> Self {
        Self {
            ttl,
            max,
            tickets: Mutex::default(),
        }
    }

    /// How long a token is good.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Makes a token for `request`.
    pub(crate) fn issue(&self, request: Request) -> Result<String, Error> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|e| Error::Random {
            reason: e.to_string(),
        })?;
        let token = URL_SAFE_NO_PAD.encode(bytes);
        let now = Instant::now();
        let mut tickets = self.lock();
        if tickets.len() >= self.max {
            tickets.retain(|_, ticket| ticket.expires > now);
        }
        if tickets.len() >= self.max {
            return Err(Error::TooManyRequests { max: self.max });
        }
        let expires = now + self.ttl;
        tickets.insert(token.clone(), Ticket { request, expires });
        Ok(token)
    }

    /// Whether a token is good for `purpose`.
    pub(crate) fn is_good(&self, token: &str, purpose: Purpose) -> bool {
        let now = Instant::now();
        let good = |ticket: &Ticket| ticket.expires > now && ticket.request.purpose() == purpose;
        self.lock().get(token).is_some_and(good)
    }

    /// Uses a token up.
    pub(crate) fn redeem(&self, token: &str) -> Option<Request> {
        let ticket = self.lock().remove(token)?;
        (ticket.expires > Instant::now()).then_some(ticket.request)
    }

    /// Forgets the tokens that nobody has presented in time.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        let mut tickets = self.lock();
        tickets.retain(|_, ticket| ticket.expires > now);
        if tickets.is_empty() {
            tickets.shrink_to_fit();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Ticket>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;

    fn forward() -> Request {
        let connect = |_| {
            Box::pin(std::future::ready(Err(io::Error::other("unused")))) as crate::BoxFuture<_>
        };
        Request::PortForward(PortForwardRequest {
            ports: Vec::new(),
            connect: Arc::new(connect),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_once_for_its_purpose_and_until_it_expires() {
        let tokens = Tokens::new(Duration::from_secs(60), 2);
        let token = tokens.issue(forward()).unwrap();
        assert!(!tokens.is_good(&token, Purpose::Exec));
        assert!(tokens.is_good(&token, Purpose::PortForward));
        assert!(tokens.redeem(&token).is_some());
        assert!(tokens.redeem(&token).is_none());

        let token = tokens.issue(forward()).unwrap();
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!tokens.is_good(&token, Purpose::PortForward));
        assert!(tokens.redeem(&token).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_bounded_and_expired_ones_make_room() {
        let tokens = Tokens::new(Duration::from_secs(60), 2);
        tokens.issue(forward()).unwrap();
        tokens.issue(forward()).unwrap();
        let refused = tokens.issue(forward());
        assert!(matches!(refused, Err(Error::TooManyRequests { max: 2 })));
        tokio::time::advance(Duration::from_secs(61)).await;
        tokens.issue(forward()).unwrap();
        assert_eq!(tokens.lock().len(), 1);
        tokio::time::advance(Duration::from_secs(61)).await;
        tokens.expire();
        assert_eq!(tokens.lock().len(), 0);
    }

    #[test]
    fn tokens_do_not_repeat_and_need_no_escaping_in_urls() {
        let tokens = Tokens::new(Duration::from_secs(60), 1000);
        let made: std::collections::HashSet<_> = (0..1000)
            .map(|_| tokens.issue(forward()).unwrap())
            .collect();
        assert_eq!(made.len(), 1000);
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        assert!(
            made.iter()
                .all(|token| token.len() == 22 && token.bytes().all(safe))
        );
    }
}
