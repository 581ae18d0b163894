//! What the app beside this gate uses, as the agent of the task's host tells it: Amazon ECS' task metadata endpoint, version 4
//! (<https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate.html>). Nobody outside of a task on
//! Fargate can see that without paying for it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use syp_auth::door::Usage;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpStream;

use crate::beside::ID;

/// It is on the same host, and may have to look at its containers first. Whoever asks for the status waits no longer.
const LIMIT: Duration = Duration::from_secs(3);
/// Largest answer.
const LARGEST: usize = 1 << 20;

/// The agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// This gate's own path on it: each container has one.
    own: Uri,
}

/// A container of the task; AWS may have put some beside ours (GuardDuty's, Service Connect's).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    docker_id: String,
    name: String,
    started_at: Option<String>,
}

/// `${ECS_CONTAINER_METADATA_URI_V4}/task`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Task {
    #[serde(rename = "TaskARN")]
    task_arn: String,
    containers: Vec<Container>,
}

/// `${ECS_CONTAINER_METADATA_URI_V4}/task/stats`, by the containers' ids; null in the first second of one. As Docker tells them.
type Stats = BTreeMap<String, Option<Figures>>;

#[derive(Debug, Deserialize)]
struct Figures {
    cpu_stats: Cpu,
    memory_stats: Memory,
}

#[derive(Debug, Deserialize)]
struct Cpu {
    cpu_usage: CpuUsage,
}

#[derive(Debug, Deserialize)]
struct CpuUsage {
    /// Nanoseconds.
    total_usage: u64,
}

#[derive(Debug, Deserialize)]
struct Memory {
    /// Bytes, with what the kernel keeps of files.
    usage: u64,
    #[serde(default)]
    stats: MemoryStats,
}

#[derive(Debug, Default, Deserialize)]
struct MemoryStats {
    /// Of control groups of version 2.
    inactive_file: Option<u64>,
    /// Of version 1.
    total_inactive_file: Option<u64>,
}

// === impl Agent ===

impl Agent {
    /// Where it answers this container. `None`: that is no such place.
    #[must_use]
    pub fn at(uri: &str) -> Option<Self> {
        let own: Uri = uri.parse().ok()?;
        (own.scheme_str() == Some("http") && own.authority().is_some()).then_some(Self { own })
    }

    /// What the container [`ID`] of the task uses. `None`: it does not say, or not yet.
    pub async fn usage(&self) -> Option<Usage> {
        tokio::time::timeout(LIMIT, self.asked()).await.ok()?
    }

    async fn asked(&self) -> Option<Usage> {
        let (task, stats) = tokio::join!(self.get("/task"), self.get("/task/stats"));
        usage(&task?, &stats?)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let host = self.own.authority()?;
        let to = (host.host(), host.port_u16().unwrap_or(80));
        let io = TokioIo::new(TcpStream::connect(to).await.ok()?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        tokio::spawn(connection);
        let request = Request::get(format!("{}{path}", self.own.path().trim_end_matches('/')))
            .header(header::HOST, host.as_str())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .ok()?;
        let answer = sender.send_request(request).await.ok()?;
        if answer.status() != StatusCode::OK {
            return None;
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    }
}

/// Of the app alone.
fn usage(task: &Task, stats: &Stats) -> Option<Usage> {
    let app = task.containers.iter().find(|c| c.name == ID)?;
    let started = OffsetDateTime::parse(app.started_at.as_deref()?, &Rfc3339).ok()?;
    let told = stats.get(&app.docker_id)?.as_ref()?;
    let memory = &told.memory_stats;
    let files = memory.stats.inactive_file.or(memory.stats.total_inactive_file).unwrap_or(0);
    Some(Usage {
        place: task.task_arn.rsplit('/').next()?.to_owned(),
        started_ms: u64::try_from(started.unix_timestamp_nanos() / 1_000_000).ok()?,
        cpu_us: told.cpu_stats.cpu_usage.total_usage / 1_000,
        // what a machine could take back at once is not used
        memory_bytes: memory.usage.saturating_sub(files),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const GATE: &str = "cd189a933e5849daa93386466019ab50-1111111111";
    const APP: &str = "cd189a933e5849daa93386466019ab50-2495160603";

    /// As AWS shows them for Fargate, cut to some of the members.
    fn task() -> Value {
        let container = |id: &str, name: &str, started: &str| {
            json!({ "DockerId": id, "Name": name, "DockerName": name, "KnownStatus": "RUNNING", "Limits": { "CPU": 2 },
                "CreatedAt": "2020-10-08T20:09:11.44527186Z", "StartedAt": started, "Type": "NORMAL" })
        };
        json!({
            "Cluster": "arn:aws:ecs:us-west-2:111122223333:cluster/default",
            "TaskARN": "arn:aws:ecs:us-west-2:111122223333:task/default/cd189a933e5849daa93386466019ab50",
            "Containers": [
                container(GATE, "gate", "2020-10-08T20:09:10.44527186Z"),
                container(APP, "app", "2020-10-08T20:09:11.44527186Z"),
                { "DockerId": "x-2", "Name": "aws-guardduty-agent", "Type": "NORMAL" },
            ],
            "LaunchType": "FARGATE",
        })
    }

    fn stats(memory: &Value) -> Value {
        let one = |ns: u64| {
            json!({ "read": "2020-10-08T21:24:44.938937019Z", "num_procs": 0, "memory_stats": memory,
                "cpu_stats": { "cpu_usage": { "total_usage": ns, "percpu_usage": [ns] }, "online_cpus": 2 } })
        };
        json!({ GATE: one(7), APP: one(1_137_691_504) })
    }

    fn read(task: Value, stats: Value) -> Option<Usage> {
        usage(&serde_json::from_value(task).unwrap(), &serde_json::from_value(stats).unwrap())
    }

    #[test]
    fn what_the_app_uses_is_told_whatever_is_beside_it() {
        let v1 = json!({ "usage": 6_340_608, "max_usage": 6_598_656, "stats": { "total_inactive_file": 4096, "cache": 9 } });
        let told = read(task(), stats(&v1)).unwrap();
        assert_eq!(told.place, "cd189a933e5849daa93386466019ab50");
        assert_eq!(
            (told.started_ms, told.cpu_us, told.memory_bytes),
            (1_602_187_751_445, 1_137_691, 6_336_512)
        );
        let v2 = json!({ "usage": 6_340_608, "stats": { "inactive_file": 340_608 } });
        assert_eq!(read(task(), stats(&v2)).unwrap().memory_bytes, 6_000_000);
    }

    #[test]
    fn what_is_not_told_yet_is_not_made_up() {
        let mut young = stats(&json!({ "usage": 1 }));
        young[APP] = Value::Null;
        assert_eq!(read(task(), young), None, "the first second of a container");
        let mut starting = task();
        starting["Containers"][1].as_object_mut().unwrap().remove("StartedAt");
        assert_eq!(read(starting, stats(&json!({ "usage": 1 }))), None);
        let mut alone = task();
        alone["Containers"].as_array_mut().unwrap().remove(1);
        assert_eq!(read(alone, stats(&json!({ "usage": 1 }))), None);
        assert!(Agent::at("169.254.170.2/v4/x").is_none());
        assert!(Agent::at("").is_none());
    }

    #[tokio::test]
    async fn an_agent_is_asked_under_the_containers_own_path() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap();
                let line = String::from_utf8_lossy(&head[..n]).lines().next().unwrap().to_owned();
                let body = match line.split(' ').nth(1).unwrap() {
                    "/v4/me/task" => task(),
                    "/v4/me/task/stats" => stats(&json!({ "usage": 5 })),
                    _ => Value::Null,
                };
                let body = body.to_string();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(head.as_bytes()).await.unwrap();
            }
        });
        let agent = Agent::at(&format!("http://{at}/v4/me")).unwrap();
        assert_eq!(agent.usage().await.unwrap().memory_bytes, 5);
        server.await.unwrap();
        assert_eq!(agent.usage().await, None, "it is gone");
    }
}
