//! Operations as traces: what a collector gets by OTLP over HTTP.
use anyhow::{Context, Result, ensure};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::mpsc,
    time::Duration,
};
use syp_tests::product::{Engine, binary};

/// First line and body of a request.
type Sent = (String, Vec<u8>);

/// A collector: its address, and what it is sent.
fn collector() -> Result<(String, mpsc::Receiver<Sent>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let (to, got) = mpsc::channel();
    std::thread::spawn(move || -> Result<()> {
        loop {
            let (mut stream, _) = listener.accept()?;
            let mut from = BufReader::new(stream.try_clone()?);
            let (mut first, mut length) = (String::new(), 0);
            from.read_line(&mut first)?;
            loop {
                let mut line = String::new();
                from.read_line(&mut line)?;
                let line = line.trim().to_ascii_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some(n) = line.strip_prefix("content-length:") {
                    length = n.trim().parse()?;
                }
            }
            let mut body = vec![0; length];
            from.read_exact(&mut body)?;
            let ok = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(ok.as_bytes())?;
            to.send((first, body))?;
        }
    });
    Ok((url, got))
}

#[test]
fn a_collector_gets_a_trace_of_each_operation_that_ended() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let (url, got) = collector()?;
    let e = Engine::new(&sypctl)?.with("OTEL_EXPORTER_OTLP_ENDPOINT", &url);
    e.up("shop", "syp-test/hello", &["--port", "8080"])?;
    e.down("shop")?;
    for (operation, step) in [("operation up", "app-0"), ("operation down", "undo gate")] {
        let (line, body) = got.recv_timeout(Duration::from_secs(20)).context(operation)?;
        ensure!(line.starts_with("POST /v1/traces "), "{line}");
        let has = |text: &str| body.windows(text.len()).any(|w| w == text.as_bytes());
        for text in [operation, step, "projects/default/instances/shop", "service.name", "sypctl"] {
            ensure!(
                has(text),
                "'{text}' is not in the trace of {operation}: {}",
                String::from_utf8_lossy(&body)
            );
        }
    }
    Ok(())
}
