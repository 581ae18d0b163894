//! Newtyped identifiers, so that they cannot be swapped.
use std::fmt;
use uuid::Uuid;

/// One incarnation of an instance; part of every provider-side name and label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Uuid);

/// The data directory's identity: two engines on one host never share it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StoreId(String);

/// `operations/{instance uid}-{run}`: the instance is in the name, so no index is needed to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId {
    /// Whose run it is.
    pub instance: InstanceId,
    /// Number of the run within the instance, from 1.
    pub run: u32,
}

// === impl InstanceId ===

impl InstanceId {
    /// No instance has it: the owner of what belongs to none.
    pub const NOBODY: Self = Self(Uuid::nil());

    /// A new random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// From 16 bytes, as in store keys.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// 16 bytes, as in store keys.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The first 12 hex digits, for names that people read.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }

    /// Reads the 32 hex digits of [`fmt::Display`]; hyphens are accepted.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::parse_str(text).ok().map(Self)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl StoreId ===

impl StoreId {
    /// A new random store id (12 hex digits: it stands in every label).
    pub fn random() -> Self {
        Self(Uuid::new_v4().simple().to_string()[..12].to_owned())
    }

    /// As stored.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text of labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl OperationId ===

impl OperationId {
    /// Reads `operations/{uid}-{run}`.
    pub fn parse(name: &str) -> Option<Self> {
        let (uid, run) = name.strip_prefix("operations/")?.rsplit_once('-')?;
        Some(Self { instance: InstanceId::parse(uid)?, run: run.parse().ok()? })
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operations/{}-{}", self.instance, self.run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_name_reads_back_and_garbage_does_not() {
        let id = OperationId { instance: InstanceId::random(), run: 3 };
        assert!(OperationId::parse(&id.to_string()) == Some(id));
        for bad in ["", "operations/", "operations/x-1", "operations/00-", "op/1"] {
            assert!(OperationId::parse(bad).is_none(), "{bad}");
        }
    }
}
