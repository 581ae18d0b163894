//! What a provider tells of what is there: figures, logs, what was used and billed, news.
use crate::{clock::Millis, id::InstanceId};
use futures_util::{future::BoxFuture, stream::BoxStream};
use rust_decimal::Decimal;
use std::collections::BTreeMap;
use syp_auth::door::{GateMetrics, GateStatus};
use syp_proto::journal::Failure;

/// One replica that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStats {
    /// Its name.
    pub id: String,
    /// When it began; another time means that its counters began anew.
    pub started_ms: Millis,
    /// Processor time since then, microseconds.
    pub cpu_us: u64,
    /// Resident bytes.
    pub memory_bytes: u64,
}

/// CPU, memory and the gate's counters of one instance.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Resident bytes of the replicas.
    pub memory_bytes: u64,
    /// Each replica that answered.
    pub replicas: Vec<ReplicaStats>,
    /// How many run, where the target chooses how many and says so.
    pub running: Option<u32>,
    /// Why the target can't choose, where it is to choose and has not been able to for a while.
    pub blind: Option<String>,
    /// The gate's counters, if it answered.
    pub gate: Option<GateMetrics>,
    /// The gate's view of the replicas.
    pub status: Option<GateStatus>,
    /// What the host draws, where its owner pays for it.
    pub power: Option<crate::energy::Power>,
}

/// One line of a log.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// Unix time.
    pub at_ms: Millis,
    /// Replica, or `gate`.
    pub replica: String,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// Text without the line break.
    pub line: String,
}

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Keep going.
    pub follow: bool,
    /// Only the last so many (0: all).
    pub tail: u32,
    /// Not before.
    pub since_ms: Millis,
    /// One replica only.
    pub replica: String,
    /// Of runs that have ended, not of the one that is.
    pub previous: bool,
}

/// Who bills what a target makes.
#[derive(Clone, Copy, Debug)]
pub struct Biller {
    /// The same for all targets that it bills together.
    pub key: &'static str,
    /// What it is called.
    pub name: &'static str,
    /// What a question costs, in words.
    pub price: &'static str,
    /// What a person could look after where it knows nothing of an instance.
    pub unknown: &'static str,
}

/// What a provider has billed so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Billed {
    /// By the instances' uids.
    pub amounts: BTreeMap<String, Decimal>,
    /// Of all of them.
    pub currency: String,
}

/// What was used of something that is paid by use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Of what.
    pub kind: &'static str,
    /// In what it is counted.
    pub unit: &'static str,
    /// Days since 1970, in UTC.
    pub day: i64,
    /// So much.
    pub quantity: Decimal,
    /// What it costs, in the currency of the target.
    pub amount: Decimal,
}

/// What was used in a time.
pub type Uses<'a> = BoxFuture<'a, Result<Vec<Use>, Failure>>;

/// Instances about which a provider had news, as they come; `None`: any of them.
pub type News = BoxStream<'static, Option<InstanceId>>;

/// Lines of a log as they come.
pub type LogLines = BoxStream<'static, Result<LogLine, Failure>>;
