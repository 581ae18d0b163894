//! A way to a server that can be cut, or on which everything is lost: what a firewall, a load balancer or a laptop's sleep does to
//! connections that stay open for long.
use crate::product::pause;
use anyhow::Result;
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// How often a connection looks whether it is to lose things.
const LOOK: Duration = Duration::from_millis(100);

/// Takes connections on loopback and carries them to one server, until it is dropped.
pub struct Relay {
    at: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    open: Mutex<Vec<TcpStream>>,
    taken: AtomicUsize,
    loses: AtomicBool,
    ended: AtomicBool,
}

// === impl State ===

impl State {
    /// Carries what one side says to the other, until either ends.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        while !self.ended.load(Ordering::Relaxed) {
            if self.loses.load(Ordering::Relaxed) {
                // what comes stays where it is: nobody is told that the connection is of no use
                pause(100);
                continue;
            }
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) if to.write_all(&buffer[..n]).is_err() => break,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        for side in [&from, &to] {
            let _ = side.shutdown(Shutdown::Both);
        }
    }
}

// === impl Relay ===

impl Relay {
    /// A relay to a server.
    ///
    /// # Errors
    /// No port.
    pub fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (at, state) = (listener.local_addr()?, Arc::<State>::default());
        let s = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if s.ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                let _ = join(&s, client, server);
            }
        });
        Ok(Self { at, state })
    }

    /// Where it is.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// Connections that were taken up to now.
    pub fn taken(&self) -> usize {
        self.state.taken.load(Ordering::Relaxed)
    }

    /// Ends every connection that is open; the next ones are taken as before. How many there were.
    pub fn cut(&self) -> usize {
        let all: Vec<_> = self.state.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        // those that ended by themselves can't be shut down again
        all.iter().filter(|c| c.shutdown(Shutdown::Both).is_ok()).count()
    }

    /// From now on everything is lost, or nothing: connections stay open, new ones are taken, and what they carry arrives when it ends.
    pub fn loses(&self, all: bool) {
        self.state.loses.store(all, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.cut();
        // so that who waits for a connection ends
        let _ = TcpStream::connect(self.at);
    }
}

fn join(state: &Arc<State>, client: TcpStream, server: TcpStream) -> std::io::Result<()> {
    for side in [&client, &server] {
        side.set_read_timeout(Some(LOOK))?;
        side.set_nodelay(true)?;
    }
    let ways = [(client.try_clone()?, server.try_clone()?), (server.try_clone()?, client.try_clone()?)];
    state.taken.fetch_add(1, Ordering::Relaxed);
    state.open.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    for (from, to) in ways {
        let state = Arc::clone(state);
        thread::spawn(move || state.carry(from, to));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says back what it hears.
    fn echo() -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        thread::spawn(move || {
            for c in listener.incoming().flatten() {
                thread::spawn(move || {
                    let (mut from, mut to) = (c.try_clone()?, c);
                    std::io::copy(&mut from, &mut to)
                });
            }
        });
        Ok(at)
    }

    #[test]
    fn it_carries_and_loses_and_cuts() -> Result<()> {
        let relay = Relay::to(echo()?)?;
        let mut c = TcpStream::connect(relay.at())?;
        let mut heard = [0; 2];
        c.write_all(b"ab")?;
        c.read_exact(&mut heard)?;
        anyhow::ensure!(&heard == b"ab");
        relay.loses(true);
        pause(300);
        c.set_read_timeout(Some(4 * LOOK))?;
        c.write_all(b"cd")?;
        anyhow::ensure!(c.read_exact(&mut heard).is_err(), "it is lost");
        relay.loses(false);
        c.set_read_timeout(Some(Duration::from_secs(10)))?;
        c.read_exact(&mut heard)?;
        anyhow::ensure!(&heard == b"cd");
        anyhow::ensure!(relay.cut() == 1 && relay.taken() == 1);
        anyhow::ensure!(c.read(&mut heard).unwrap_or(0) == 0, "it has ended");
        Ok(())
    }
}
