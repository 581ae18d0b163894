//! For an app that listens on loopback only: the same port on the outside address, passed on byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Passes connections on until it is dropped. Connections that are open then live on.
pub struct Relay(JoinHandle<()>);

impl Relay {
    /// Listens on `outside` and passes on to `inside`.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn start(outside: SocketAddr, inside: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(outside).await?;
        Ok(Self(tokio::spawn(accept(listener, inside))))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: TcpListener, inside: SocketAddr) {
    let places = Arc::new(Semaphore::new(4096));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((mut from, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        tokio::spawn(async move {
            let _place = place;
            if let Ok(mut to) = TcpStream::connect(inside).await {
                let _ = (from.set_nodelay(true), to.set_nodelay(true));
                // the gate sees an early end as the app's
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}
