//! What the agent of a task's host tells its containers (task metadata endpoint, version 4), at an address of the bed's network. The
//! figures are Docker's own, as they are.
use super::{
    http::text,
    wire::Answer,
    world::{Shared, Task},
};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode, body::Incoming, client, header, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use std::{io, net::SocketAddr, sync::Arc};
use tokio::net::{TcpListener, UnixStream};

/// Answers from now on.
pub async fn serve(shared: Arc<Shared>) -> io::Result<SocketAddr> {
    let form = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
    let at = shared.docker.run(&["network", "inspect", "-f", form, &shared.docker.network()]).await;
    let listener = TcpListener::bind((at.map_err(io::Error::other)?, 0)).await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let service = service_fn(move |r| {
                    let shared = Arc::clone(&shared);
                    async move { answer(&shared, &r).await }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(at)
}

/// What a container has in its environment, and its path here: its task's id and its own name.
pub fn variable(at: SocketAddr, task: &str, container: &str) -> String {
    format!("ECS_CONTAINER_METADATA_URI_V4=http://{at}/v4/{task}-{container}")
}

async fn answer(shared: &Shared, request: &Request<Incoming>) -> io::Result<Answer> {
    let told = told(shared, request.uri().path()).await;
    let status = if told.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let mut answer = Response::new(Full::from(told.unwrap_or_default().to_string()));
    *answer.status_mut() = status;
    Ok(answer)
}

async fn told(shared: &Shared, path: &str) -> Option<Value> {
    let mut parts = path.strip_prefix("/v4/")?.splitn(2, '/');
    let (own, what) = (parts.next()?, parts.next().unwrap_or_default());
    let (id, name) = own.split_once('-')?;
    let task = shared.see(|w| w.tasks.get(id).cloned())?;
    match what {
        "" => container(shared, &task, name).await,
        "task" => {
            let mut all = vec![];
            for c in &task.containers {
                all.push(container(shared, &task, &c.name).await?);
            }
            Some(json!({ "TaskARN": task.arn, "KnownStatus": task.last, "Containers": all }))
        }
        "task/stats" => {
            let all = task
                .containers
                .iter()
                .map(|c| async { (called(&task, &c.name), stats(&c.id).await.unwrap_or_default()) });
            Some(join_all(all).await.into_iter().collect::<Map<_, _>>().into())
        }
        _ => None,
    }
}

/// As Fargate calls containers: its ids are no Docker's.
fn called(task: &Task, name: &str) -> String {
    format!("{}-{name}", task.id)
}

async fn container(shared: &Shared, task: &Task, name: &str) -> Option<Value> {
    let of = task.containers.iter().find(|c| c.name == name)?;
    let mut told =
        json!({ "DockerId": called(task, name), "Name": name, "Image": of.image, "Type": "NORMAL" });
    // one that waits for another is not there yet
    if !of.id.is_empty() {
        let started = shared.docker.run(&["inspect", "-f", "{{.State.StartedAt}}", &of.id]).await.ok()?;
        told["StartedAt"] = started.into();
    }
    Some(told)
}

/// Docker's, of one that runs.
async fn stats(id: &str) -> Option<Value> {
    let at = std::env::var("DOCKER_HOST").ok();
    let at = at.as_deref().and_then(|h| h.strip_prefix("unix://")).unwrap_or("/var/run/docker.sock");
    let (mut sender, connection) =
        client::conn::http1::handshake(TokioIo::new(UnixStream::connect(at).await.ok()?)).await.ok()?;
    tokio::spawn(connection);
    let request = Request::get(format!("/containers/{id}/stats?stream=false&one-shot=true"))
        .header(header::HOST, "docker")
        .body(Full::<Bytes>::default());
    let (parts, body) = sender.send_request(request.ok()?).await.ok()?.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let read = serde_json::from_str(&text(Response::from_parts(parts, Full::new(body))).await).ok()?;
    let running = |v: &Value| v["cpu_stats"]["cpu_usage"]["total_usage"].as_u64().is_some_and(|ns| ns > 0);
    Some(read).filter(running)
}
