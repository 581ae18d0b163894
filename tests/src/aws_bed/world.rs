//! What the bed knows, in one place. Nobody holds it across I/O: it is changed in a moment, and whoever waits is told of each change.
use super::{Tags, authority::Authority, behind::Behind, docker::Docker, quotas::Room};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::OnceLock,
    time::Duration,
};
use time::OffsetDateTime;
use tokio::sync::watch;

/// What happens to a call instead of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and the connection ends.
    Reset,
    /// It is done, and the connection ends before the answer.
    Lost,
    /// It is refused with this code and status.
    Refused(&'static str, u16),
}

/// Everything that changes.
#[derive(Default)]
pub struct World {
    /// Those that were, too.
    pub stacks: Vec<Stack>,
    /// By ARN.
    pub services: BTreeMap<String, Service>,
    /// Task definitions, deleted ones not among them.
    pub definitions: Vec<Definition>,
    /// By id; stopped ones for as long as their cluster is there.
    pub tasks: BTreeMap<String, Task>,
    /// Load balancers, by the id of their stack.
    pub fronts: BTreeMap<String, Front>,
    /// Log groups, by name.
    pub groups: BTreeMap<String, Group>,
    /// `SERVICE:ACTION`.
    pub calls: Vec<String>,
    /// To calls of a name, and how many of that name come before.
    pub faults: Vec<(String, usize, Fault)>,
    /// To the first calls of each name.
    pub plague: Option<Fault>,
    /// How many calls of each name it has met.
    pub met: BTreeMap<String, usize>,
    /// For tasks.
    pub room: Room,
    /// For so long each status that passes stays.
    pub slow: Duration,
    /// The bed ends.
    pub closing: bool,
}

/// A stack.
#[derive(Clone, Default)]
pub struct Stack {
    /// ARN.
    pub id: String,
    pub name: String,
    pub status: String,
    pub reason: String,
    pub role: String,
    /// What it has now.
    pub shape: Shape,
    /// What it had before the update that goes on.
    pub before: Option<Shape>,
    pub events: Vec<Event>,
    /// Of the request that it was changed by last.
    pub token: String,
    /// Left in place by a deletion.
    pub retained: BTreeSet<String>,
    /// Goes up with each operation: who has another is no longer the one that changes it.
    pub epoch: u64,
    /// Operations under way; one that is over still has to notice.
    pub busy: usize,
    /// The update shall be given up.
    pub cancelled: bool,
    /// Revisions that were made in the update that goes on, or were replaced by it.
    pub made: Vec<(String, String)>,
    /// By name.
    pub sets: BTreeMap<String, ChangeSet>,
    /// When something was asked of the emulator that has it too, and with which token.
    pub asked: Vec<(OffsetDateTime, String)>,
    /// What somebody changed by hand: of a resource a property's path, and its value now.
    pub tampered: BTreeMap<String, (String, String)>,
    pub created: Option<OffsetDateTime>,
    pub updated: Option<OffsetDateTime>,
    pub deleted: Option<OffsetDateTime>,
}

/// A change set.
#[derive(Clone, Default)]
pub struct ChangeSet {
    /// What the stack would have.
    pub shape: Shape,
    /// Somebody has asked for it: it is ready then.
    pub looked: bool,
}

/// What a stack is made of.
#[derive(Clone, Default)]
pub struct Shape {
    pub text: String,
    pub template: Value,
    pub tags: Tags,
    /// By logical id.
    pub resources: BTreeMap<String, Resource>,
    pub outputs: Tags,
}

/// A resource.
#[derive(Clone, Default, PartialEq)]
pub struct Resource {
    /// `AWS::ECS::Service`, ...
    pub kind: String,
    /// What `Ref` gives.
    pub physical: String,
    /// What `Fn::GetAtt` gives.
    pub attributes: Tags,
    /// With all references resolved.
    pub properties: Value,
}

/// What happened.
#[derive(Clone)]
pub struct Event {
    pub id: String,
    pub logical: String,
    pub physical: String,
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub token: String,
    pub at: OffsetDateTime,
}

/// A revision of a task definition.
#[derive(Clone)]
pub struct Definition {
    pub arn: String,
    pub family: String,
    pub revision: u32,
    /// As in the template.
    pub properties: Value,
    pub tags: Tags,
    pub active: bool,
    pub made: OffsetDateTime,
    pub ended: Option<OffsetDateTime>,
}

/// A service.
#[derive(Clone)]
pub struct Service {
    pub arn: String,
    pub name: String,
    pub cluster: String,
    pub cluster_arn: String,
    /// Id of its stack.
    pub stack: String,
    /// Newest first: the first is the one that it shall have.
    pub deployments: Vec<Deployment>,
    /// Id, time and words, oldest first.
    pub events: Vec<(String, OffsetDateTime, String)>,
    /// It is being deleted.
    pub leaving: bool,
    pub tags: Tags,
    pub health: Health,
    pub created: OffsetDateTime,
}

/// How far a deployment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollout {
    Going,
    Done,
    Failed,
}

/// A deployment.
#[derive(Clone)]
pub struct Deployment {
    pub id: String,
    /// ARN.
    pub definition: String,
    pub desired: usize,
    /// Tasks that ended by themselves since it was complete last.
    pub failed: usize,
    pub state: Rollout,
    pub created: OffsetDateTime,
    pub updated: OffsetDateTime,
}

/// How a load balancer looks at tasks.
#[derive(Clone)]
pub struct Health {
    pub group: String,
    pub port: u16,
    pub path: String,
    pub status: u16,
    pub healthy: u32,
    pub unhealthy: u32,
    pub interval: Duration,
    pub timeout: Duration,
    pub grace: Duration,
    /// What a task that goes is given after it was taken out.
    pub deregister: Duration,
}

/// A task.
#[derive(Clone)]
pub struct Task {
    pub id: String,
    pub arn: String,
    /// ARN.
    pub service: String,
    pub definition: String,
    pub last: &'static str,
    pub desired: &'static str,
    pub reason: String,
    pub code: &'static str,
    pub address: Option<Ipv4Addr>,
    pub interface: String,
    pub containers: Vec<Container>,
    pub created: OffsetDateTime,
    pub started: Option<OffsetDateTime>,
    pub stopped: Option<OffsetDateTime>,
    /// The load balancer may send it requests.
    pub healthy: bool,
    /// It shall go, and why.
    pub told: Option<String>,
    /// One of its containers has ended.
    pub died: bool,
}

/// A container of a task.
#[derive(Clone, Default)]
pub struct Container {
    pub name: String,
    pub image: String,
    /// Docker's id.
    pub id: String,
    pub exit: Option<i64>,
    pub reason: String,
    pub stop_seconds: u64,
}

/// A load balancer.
#[derive(Clone)]
pub struct Front {
    pub domain: String,
    pub address: Ipv4Addr,
    /// Docker's id.
    pub container: String,
    /// Of the container itself, for questions about its configuration.
    pub inside: Ipv4Addr,
    pub dir: PathBuf,
    /// Tasks that it sends requests to.
    pub applied: Vec<Ipv4Addr>,
}

/// A log group.
#[derive(Clone, Default)]
pub struct Group {
    pub streams: BTreeMap<String, Stream>,
}

/// A stream of lines.
#[derive(Clone)]
pub struct Stream {
    /// Docker's id.
    pub container: String,
    /// Once the container is gone.
    pub kept: Option<Vec<Line>>,
    pub created: OffsetDateTime,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub at_ns: i128,
    pub text: String,
}

/// What everybody in the bed shares.
pub struct Shared {
    world: Mutex<World>,
    changed: watch::Sender<()>,
    pub id: String,
    pub region: String,
    pub account: String,
    pub docker: Docker,
    pub behind: Behind,
    pub authority: Authority,
    pub dir: PathBuf,
    /// Where the agent of the tasks' hosts answers.
    pub agent: OnceLock<SocketAddr>,
}

// === impl World ===

impl World {
    /// By name the living one, by ARN any.
    pub fn stack(&self, name_or_id: &str) -> Option<&Stack> {
        let is = |s: &&Stack| s.id == name_or_id || s.name == name_or_id && s.status != "DELETE_COMPLETE";
        self.stacks.iter().find(is)
    }

    /// The one with this ARN.
    pub fn stack_mut(&mut self, id: &str) -> Option<&mut Stack> {
        self.stacks.iter_mut().find(|s| s.id == id)
    }

    /// Tasks of a service.
    pub fn tasks_of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Task> {
        self.tasks.values().filter(move |t| t.service == service)
    }
}

// === impl Task ===

impl Task {
    /// It counts among those that a service has.
    pub fn counts(&self) -> bool {
        self.desired == "RUNNING" && self.told.is_none()
    }
}

// === impl Shared ===

impl Shared {
    /// Of an empty account.
    pub fn new(
        id: String,
        region: &str,
        account: String,
        docker: Docker,
        behind: Behind,
        authority: Authority,
        dir: PathBuf,
    ) -> Self {
        let region = region.to_owned();
        let (world, changed) = (Mutex::default(), watch::channel(()).0);
        Self { world, changed, id, region, account, docker, behind, authority, dir, agent: OnceLock::new() }
    }

    /// Changes it.
    pub fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let out = change(&mut self.world.lock());
        self.changed.send_replace(());
        out
    }

    /// Looks at it.
    pub fn see<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.world.lock())
    }

    /// Looks at it after each change, until there is something.
    pub async fn until<T>(&self, mut look: impl FnMut(&World) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(found) = self.see(&mut look) {
                return found;
            }
            // the sender lives as long as this
            let _ = changed.changed().await;
        }
    }

    /// `arn:aws:SERVICE:REGION:ACCOUNT:REST`.
    pub fn arn(&self, service: &str, rest: &str) -> String {
        format!("arn:aws:{service}:{}:{}:{rest}", self.region, self.account)
    }
}

/// As AWS makes them: so many of the letters of a random id.
pub fn random(letters: usize) -> String {
    let mut text = uuid::Uuid::new_v4().simple().to_string();
    text.truncate(letters);
    text
}

/// Now.
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
