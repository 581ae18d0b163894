//! The provider's side: objects with a time at which they land and one at which listings see them.
use futures_util::{StreamExt, stream, stream::BoxStream};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use syp_engine::{
    failure::{Class, failure},
    id::{InstanceId, StoreId},
    step::{Billed, Owner, Stats},
};
use syp_proto::journal::Failure;
use tokio::{sync::watch, time::Instant};

/// What goes wrong, once, at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It works, and the caller sees a timeout.
    ExecutedTimeout,
    /// Half of it works, and the caller sees a final error.
    HalfDone,
    /// Nothing happens, final error.
    Terminal,
    /// Nothing happens, an error of the moment.
    Transient,
    /// Nothing happens, slow down.
    Throttled,
    /// Nothing happens and no answer ever comes.
    Hang,
    /// It works, and then the step itself breaks down.
    Panic,
}

/// How the cloud behaves.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// Time until the answer.
    pub latency: Duration,
    /// Time from a call until its effect is there, even if the caller is gone.
    pub landing: Duration,
    /// Time after which listings see it.
    pub lag: Duration,
}

/// Something that exists, will exist or has existed.
#[derive(Clone, Debug)]
pub struct Object {
    /// The provider's id.
    pub id: u64,
    /// The name or tag it was asked for under.
    pub key: String,
    /// Kind of its step.
    pub kind: &'static str,
    /// Node of its step.
    pub node: String,
    store: String,
    uid: InstanceId,
    lands: Instant,
    seen: Instant,
    dead: bool,
}

#[derive(Debug, Default)]
struct State {
    objects: Vec<Object>,
    tokens: HashMap<String, u64>,
    faults: Vec<(String, Fault)>,
    calls: Vec<String>,
    under_way: usize,
    most: usize,
    next: u64,
    figures: HashMap<String, Option<Stats>>,
    bill: Option<Billed>,
    uses: bool,
    holds: Option<bool>,
    talks: bool,
    said: Vec<Event>,
}

/// What the cloud says of a key.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which.
    pub key: String,
    /// By a clock of its own.
    pub at: i64,
    /// What.
    pub text: String,
}

/// The cloud; clones share it, and it outlives engines.
#[derive(Clone, Debug)]
pub struct FakeCloud {
    state: Arc<Mutex<State>>,
    killed: watch::Sender<()>,
    behaviour: Behaviour,
}

// === impl State ===

impl State {
    fn say(&mut self, key: &str, text: String) {
        if self.talks {
            // two of each moment
            let at = i64::try_from(self.said.len() / 2).unwrap_or(i64::MAX).saturating_add(1);
            self.said.push(Event { key: key.to_owned(), at, text });
        }
    }
}

// === impl FakeCloud ===

impl FakeCloud {
    /// An empty cloud.
    pub fn new(behaviour: Behaviour) -> Self {
        Self { state: Arc::default(), killed: watch::Sender::default(), behaviour }
    }

    /// The next call of this name (`apply b`, `destroy b`, `observe b`, `list`, `push`) goes wrong.
    pub fn inject(&self, call: &str, fault: Fault) {
        self.state.lock().faults.push((call.into(), fault));
    }

    /// What is told of an instance by its name from now on; `None`: the provider does not answer.
    pub fn tell(&self, name: &str, figures: Option<Stats>) {
        self.state.lock().figures.insert(name.into(), figures);
    }

    /// From now on somebody bills, and this.
    pub fn bill(&self, said: Billed) {
        self.state.lock().bill = Some(said);
    }

    /// From now on something is paid by use: an hour of it each hour.
    pub fn pay_by_use(&self) {
        self.state.lock().uses = true;
    }

    /// From now on there is a condition ([`super::MENDS`]), and it holds or not.
    pub fn holds(&self, holds: bool) {
        self.state.lock().holds = Some(holds);
    }

    /// From now on it says what becomes of each object, as [`FakeCloud::said`].
    pub fn talk(&self) {
        self.state.lock().talks = true;
    }

    /// What it has said of everything; the oldest first.
    pub fn said(&self) -> Vec<Event> {
        self.state.lock().said.clone()
    }

    pub(super) fn holding(&self) -> Option<bool> {
        self.state.lock().holds
    }

    pub(super) fn is_paid_by_use(&self) -> bool {
        self.state.lock().uses
    }

    pub(super) fn bill_of(&self) -> Option<Billed> {
        self.state.lock().bill.clone()
    }

    pub(super) fn figures_of(&self, name: &str) -> Result<Stats, Failure> {
        let told = self.state.lock().figures.get(name).cloned();
        told.unwrap_or_else(|| Some(Stats::default())).ok_or_else(|| {
            failure(Class::Transient, "PROVIDER_UNREACHABLE", "the cloud does not answer", "wait")
        })
    }

    /// Names of the calls so far.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// After this nothing that was called can still land unseen.
    pub fn settle_ms(&self) -> i64 {
        let b = self.behaviour;
        i64::try_from((b.landing + b.lag + b.latency + Duration::from_millis(1)).as_millis())
            .unwrap_or(i64::MAX)
    }

    /// Everything that is there now, seen by listings or not.
    pub fn live(&self) -> Vec<Object> {
        let now = Instant::now();
        self.state.lock().objects.iter().filter(|o| o.lands <= now && !o.dead).cloned().collect()
    }

    /// What a listing shows now.
    pub fn visible(&self, store: &StoreId, uid: Option<InstanceId>) -> Vec<Object> {
        let now = Instant::now();
        let all = self.state.lock();
        let mine = |o: &&Object| o.store == store.as_str() && uid.is_none_or(|u| o.uid == u);
        all.objects.iter().filter(|o| o.seen <= now && !o.dead).filter(mine).cloned().collect()
    }

    /// Something of somebody else with this name.
    pub fn plant(&self, key: &str, kind: &'static str) {
        let owner = Owner {
            store: StoreId::random(),
            uid: InstanceId::random(),
            name: String::new(),
            revision: String::new(),
        };
        self.make(&owner, key, kind, "foreign", Duration::ZERO);
    }

    /// Removes an object by id.
    pub fn kill(&self, id: &str) {
        let mut s = self.state.lock();
        let Some(at) = s.objects.iter().position(|o| o.id.to_string() == id && !o.dead) else { return };
        s.objects[at].dead = true;
        let key = s.objects[at].key.clone();
        s.say(&key, format!("{id} is gone"));
        drop(s);
        self.killed.send_replace(());
    }

    /// Says when something was killed, not what.
    pub(super) fn news(&self) -> BoxStream<'static, Option<InstanceId>> {
        let told = self.killed.subscribe();
        stream::unfold(told, |mut told| async move { told.changed().await.ok().map(|()| (None, told)) })
            .boxed()
    }

    /// How many calls were under way at once, at most. Counts right where none was given up.
    pub fn most_at_once(&self) -> usize {
        self.state.lock().most
    }

    pub(super) async fn call(&self, name: &str) -> Result<(), Failure> {
        let fault = self.begin(name);
        self.end(fault).await
    }

    /// Notes a call and takes the fault that waits for it.
    pub(super) fn begin(&self, name: &str) -> Option<Fault> {
        let mut s = self.state.lock();
        s.calls.push(name.into());
        s.under_way += 1;
        s.most = s.most.max(s.under_way);
        let at = s.faults.iter().position(|(n, _)| n == name)?;
        Some(s.faults.remove(at).1)
    }

    /// The answer to a call.
    #[allow(clippy::panic)]
    pub(super) async fn end(&self, fault: Option<Fault>) -> Result<(), Failure> {
        tokio::time::sleep(self.behaviour.latency).await;
        self.state.lock().under_way -= 1;
        let error = |class, reason: &str| Err(failure(class, reason, format!("injected {fault:?}"), ""));
        match fault {
            None => Ok(()),
            Some(Fault::ExecutedTimeout) => error(Class::Timeout, "STEP_TIMEOUT"),
            Some(Fault::HalfDone | Fault::Terminal) => error(Class::Terminal, "PROVIDER_REFUSED"),
            Some(Fault::Transient) => error(Class::Transient, "PROVIDER_ERROR"),
            Some(Fault::Throttled) => error(Class::Throttled, "PROVIDER_THROTTLED"),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Panic) => panic!("injected"),
        }
    }

    /// Takes effect at the call, not at the answer: dropping the caller does not undo it.
    pub(super) fn create(&self, owner: &Owner, key: &str, kind: &'static str, node: &str) {
        let exists = {
            let mut s = self.state.lock();
            match kind {
                // by name: the provider refuses a second one, landed or not
                "fake.ensure@1" => s.objects.iter().any(|o| o.key == key && !o.dead),
                // by client token: the same token is the same request, also after the object is gone
                "fake.token@1" => s.tokens.insert(key.into(), 1).is_some(),
                _ => false,
            }
        };
        if !exists {
            self.make(owner, key, kind, node, self.behaviour.landing);
        }
    }

    /// Waits until the newest object of a key has landed.
    pub(super) async fn landed(&self, key: &str) {
        let at = self.state.lock().objects.iter().rev().find(|o| o.key == key && !o.dead).map(|o| o.lands);
        if let Some(at) = at {
            tokio::time::sleep_until(at).await;
        }
    }

    fn make(&self, owner: &Owner, key: &str, kind: &'static str, node: &str, landing: Duration) {
        let mut s = self.state.lock();
        s.next += 1;
        let lands = Instant::now() + landing;
        let o = Object {
            id: s.next,
            key: key.into(),
            kind,
            node: node.into(),
            store: owner.store.to_string(),
            uid: owner.uid,
            lands,
            seen: lands + self.behaviour.lag,
            dead: false,
        };
        let text = format!("{} is made", o.id);
        s.objects.push(o);
        s.say(key, text);
    }

    /// Objects of a key that have landed; with `listing`, only those that listings see.
    pub(super) fn of_key(&self, key: &str, listing: bool) -> Vec<(u64, bool, Owner)> {
        let now = Instant::now();
        let s = self.state.lock();
        let there =
            |o: &&Object| o.key == key && !o.dead && if listing { o.seen <= now } else { o.lands <= now };
        let owner = |o: &Object| Owner {
            store: StoreId::from_stored(o.store.clone()),
            uid: o.uid,
            name: String::new(),
            revision: String::new(),
        };
        s.objects.iter().filter(there).map(|o| (o.id, true, owner(o))).collect()
    }
}
