//! A layer's uncompressed bytes on their way to its files, each stage on a thread of its own:
//!
//! ```text
//! source ─ filled block → digest ─ hashed block → work
//!    ↑                                             │
//!    └────────────────── used block ───────────────┘
//! ```
//!
//! [`BLOCKS`] blocks go round, so memory is bounded and a slow stage makes the others wait. When
//! one ends early, its channels close and the others end, too.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, ScopedJoinHandle};

use sha2::{Digest as _, Sha256};

use super::entries::Input;

const BLOCK: usize = 128 << 10;
const BLOCKS: usize = 6;

/// Bytes, of which so many are filled.
struct Block {
    bytes: Box<[u8]>,
    filled: usize,
}

/// What a stage hands on: the source's failure comes after all that it gave before.
type Item = io::Result<Block>;

/// What `work` reads.
pub(super) struct Stream {
    hashed: Receiver<Item>,
    used: SyncSender<Block>,
    current: Option<Block>,
    at: usize,
}

impl Stream {
    /// What is at hand; empty at the end only.
    fn at_hand(&mut self) -> io::Result<&[u8]> {
        while self.current.as_ref().is_none_or(|block| self.at == block.filled) {
            if let Some(block) = self.current.take() {
                // The source may have ended.
                let _ = self.used.send(block);
            }
            self.at = 0;
            match self.hashed.recv() {
                Ok(block) => self.current = Some(block?),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(self.current.as_ref().map_or(&[], |block| &block.bytes[self.at..block.filled]))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.at_hand()?;
        let most = bytes.len().min(buffer.len());
        buffer[..most].copy_from_slice(&bytes[..most]);
        self.at += most;
        Ok(most)
    }
}

impl Input for Stream {
    fn data(&mut self) -> io::Result<&[u8]> {
        self.at_hand()
    }

    fn take_data(&mut self, bytes: usize) {
        let left = self.current.as_ref().map_or(0, |block| block.filled - self.at);
        self.at += bytes.min(left);
    }
}

/// Runs `work` on what `source` gives; once it returns, the stream is gone. Returns what it
/// returned and the digest of what was read. Fails only if there are no threads to be had.
pub(super) fn run<T>(
    source: impl Read + Send,
    work: impl FnOnce(Stream) -> T,
) -> io::Result<(T, Sha256)> {
    let (used, unused) = sync_channel(BLOCKS);
    let (filled, to_hash) = sync_channel(BLOCKS);
    let (to_work, hashed) = sync_channel(BLOCKS);
    for _ in 0..BLOCKS {
        // The channel takes them all.
        let _ = used.send(Block { bytes: vec![0; BLOCK].into_boxed_slice(), filled: 0 });
    }
    std::thread::scope(|scope| {
        let reader = Builder::new()
            .name("layer-read".to_owned())
            .spawn_scoped(scope, move || fill(source, &unused, &filled))?;
        let hasher = Builder::new()
            .name("layer-digest".to_owned())
            .spawn_scoped(scope, move || digest(&to_hash, &to_work))?;
        let result = work(Stream { hashed, used, current: None, at: 0 });
        join(reader);
        Ok((result, join(hasher)))
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn fill(mut source: impl Read, unused: &Receiver<Block>, filled: &SyncSender<Item>) {
    while let Ok(mut block) = unused.recv() {
        block.filled = 0;
        let mut failure = None;
        while block.filled < block.bytes.len() {
            match source.read(&mut block.bytes[block.filled..]) {
                Ok(0) => break,
                Ok(read) => block.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let ended = block.filled < block.bytes.len();
        if block.filled > 0 && filled.send(Ok(block)).is_err() {
            break;
        }
        if let Some(error) = failure {
            let _ = filled.send(Err(error));
        }
        if ended {
            break;
        }
    }
}

fn digest(filled: &Receiver<Item>, hashed: &SyncSender<Item>) -> Sha256 {
    let mut hash = Sha256::new();
    while let Ok(item) = filled.recv() {
        if let Ok(block) = &item {
            hash.update(&block.bytes[..block.filled]);
        }
        if hashed.send(item).is_err() {
            break;
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Fails after so many bytes.
    struct Broken(usize);

    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(self.0).min(1000);
            self.0 -= most;
            if most == 0 { Err(io::Error::other("broken")) } else { Ok(most) }
        }
    }

    #[test]
    fn all_bytes_pass_in_order_and_are_hashed() {
        let bytes: Vec<u8> = (0..3_000_001_u32).map(|at| (at % 251) as u8).collect();
        let (result, hash) = run(bytes.as_slice(), |mut stream| {
            let mut copy = Vec::new();
            stream.read_to_end(&mut copy).unwrap();
            copy
        })
        .unwrap();
        assert_eq!(result, bytes);
        assert_eq!(hash.finalize(), Sha256::digest(&bytes));
    }

    #[test]
    fn a_failure_comes_after_what_was_read_and_an_early_end_ends_all() {
        let (result, _) = run(Broken(1_500_000), |mut stream| {
            let mut copy = Vec::new();
            let error = stream.read_to_end(&mut copy).unwrap_err();
            (copy.len(), error.to_string())
        })
        .unwrap();
        assert_eq!(result, (1_500_000, "broken".to_owned()));
        // An endless source whose reader wants no more.
        let (result, _) = run(io::repeat(7), |mut stream| stream.data().unwrap()[0]).unwrap();
        assert_eq!(result, 7);
    }
}
