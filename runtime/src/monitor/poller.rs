//! Epoll with names: which descriptor an event is about.
//!
//! A descriptor leaves by [`Poller::forget`] before it is closed: FIFOs and terminals have a second
//! copy with the guardian, so closing ours would leave it in the set.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use protocol::monitor::Stream;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Events taken from the kernel at once.
const EVENTS: usize = 16;

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Listener,
    Signals,
    Guardian,
    Client(u64),
    Init(Rc<str>),
    Output(Rc<str>, Stream),
    Added(Rc<str>, Rc<str>),
}

/// What to wait for beside errors and hang-ups, which always come.
#[derive(Debug, Clone, Copy)]
pub(super) enum Interest {
    Read,
    ReadWrite,
    HangUp,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Read => epoll::EventFlags::IN,
            Self::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            Self::HangUp => epoll::EventFlags::empty(),
        }
    }
}

/// An epoll instance.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    /// By token. Tokens are not reused, so that an event taken before its source left finds nothing.
    sources: BTreeMap<u64, Source>,
    next: u64,
}

impl Poller {
    pub(super) fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, sources: BTreeMap::new(), next: 0 })
    }

    pub(super) fn watch(&mut self, descriptor: impl AsFd, source: Source) -> Result<(), Errno> {
        let data = epoll::EventData::new_u64(self.next);
        epoll::add(&self.epoll, descriptor, data, Interest::Read.flags())?;
        self.sources.insert(self.next, source);
        self.next += 1;
        Ok(())
    }

    pub(super) fn change(&self, descriptor: impl AsFd, source: &Source, interest: Interest) {
        if let Some(token) = self.token(source) {
            let data = epoll::EventData::new_u64(token);
            // It is in the set, and the set's memory is already there.
            let _ = epoll::modify(&self.epoll, descriptor, data, interest.flags());
        }
    }

    pub(super) fn forget(&mut self, descriptor: impl AsFd, source: &Source) {
        if let Some(token) = self.token(source) {
            let _ = epoll::delete(&self.epoll, descriptor);
            self.sources.remove(&token);
        }
    }

    /// Waits; returns the sources that something happened to.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> Vec<Source> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => events
                .iter()
                .filter_map(|event| self.sources.get(&event.data.u64()).cloned())
                .collect(),
            // A signal; the loop comes again.
            Err(_) => Vec::new(),
        }
    }

    fn token(&self, source: &Source) -> Option<u64> {
        self.sources.iter().find(|(_, other)| *other == source).map(|(token, _)| *token)
    }
}
