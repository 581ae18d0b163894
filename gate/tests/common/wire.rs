//! A client that sends these very bytes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Nothing in these tests takes longer, on a machine that does much beside them.
pub const LIMIT: Duration = Duration::from_secs(30);

/// One connection.
pub struct Wire {
    pub stream: TcpStream,
    read: Vec<u8>,
}

/// One response.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: String = self.text().chars().take(300).collect();
        write!(f, "{:?} {text:?}", self.head)
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }
}

impl Wire {
    pub async fn to(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// Has the other side closed it?
    pub fn is_closed(&self) -> bool {
        matches!(self.stream.try_read(&mut [0]), Ok(0))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.stream.write_all(bytes.as_ref()).await?)
    }

    async fn more(&mut self) -> Result<bool> {
        let n = tokio::time::timeout(LIMIT, self.stream.read_buf(&mut self.read))
            .await
            .context("nothing came")?;
        Ok(n? > 0)
    }

    /// Exactly so many bytes.
    pub async fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.read.len() < count {
            if !self.more().await? {
                bail!("closed after {:?}", String::from_utf8_lossy(&self.read));
            }
        }
        Ok(self.read.drain(..count).collect())
    }

    /// Up to and with this mark.
    pub async fn until(&mut self, mark: &[u8]) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(mark.len()).position(|w| w == mark) {
                return self.take(at + mark.len()).await;
            }
            if !self.more().await? {
                bail!("closed after {:?}", String::from_utf8_lossy(&self.read));
            }
        }
    }

    /// A response's head; the body is left on the wire.
    pub async fn head(&mut self) -> Result<Reply> {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await?)?;
        let status = head.split(' ').nth(1).context("a status line")?.parse()?;
        Ok(Reply { status, head, body: Vec::new() })
    }

    /// A whole response to anything but HEAD.
    pub async fn reply(&mut self) -> Result<Reply> {
        let mut reply = self.head().await?;
        if let Some(length) = reply.header("content-length") {
            let length = length.parse()?;
            reply.body = self.take(length).await?;
        } else if reply.header("transfer-encoding").is_some() {
            loop {
                let line = String::from_utf8(self.until(b"\r\n").await?)?;
                let size = usize::from_str_radix(line.trim_end().split(';').next().unwrap_or_default(), 16)?;
                if size == 0 {
                    self.until(b"\r\n").await?;
                    break;
                }
                reply.body.extend(self.take(size).await?);
                self.take(2).await?;
            }
        }
        Ok(reply)
    }

    /// Sends and takes the response.
    pub async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Result<Reply> {
        self.send(bytes).await?;
        self.reply().await
    }

    /// Everything until the other side closes; fails when it does not.
    pub async fn rest(&mut self) -> Result<Vec<u8>> {
        loop {
            match self.more().await {
                Ok(true) => {}
                Ok(false) => return Ok(std::mem::take(&mut self.read)),
                // closed with bytes of ours unread
                Err(e) if e.downcast_ref::<std::io::Error>().is_some() => {
                    return Ok(std::mem::take(&mut self.read));
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// A plain request's bytes.
pub fn get(path: &str, token: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\n\r\n")
}

/// Asks for a WebSocket.
pub fn upgrade(token: &str) -> String {
    let head = get("/ws", token);
    head.replace(
        "\r\n\r\n",
        "\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
}
