//! Machine tokens of an instance: changed like what lives beside revisions, in force at the gate with its next generation.
use crate::{
    cell::Cell,
    engine::{Caller, Engine},
    error::Error,
    graph::State,
};
use std::sync::Arc;
use syp_proto::journal::{TokenChanged, record::Body};

/// Tokens of one instance: they all travel to its gate.
const MOST: usize = 100;

// === impl Engine ===

impl Engine {
    /// Makes or revokes a token. One that is there already, or is gone already, is left so.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an instance that is over or a token that is not there, [`Error::Invalid`] for one too many.
    pub async fn change_token(&self, cell: &Arc<Cell>, t: TokenChanged, who: &Caller) -> Result<(), Error> {
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        if let Some(why) = cell.blocked() {
            return Err(Error::Corrupt(why.to_owned()));
        }
        if i.state() == State::Destroyed {
            return Err(Error::NotFound(crate::view::full_name(&i)));
        }
        let there = |id: &str| i.tokens.iter().any(|x| x.id == id);
        match &t.created {
            Some(new) if there(&new.id) => return Ok(()),
            Some(_) if i.tokens.len() >= MOST => {
                let message = format!("an instance has at most {MOST}: revoke what nobody uses");
                return Err(Error::Invalid { field: "token".into(), message });
            }
            None if !there(&t.revoked) => return Err(Error::NotFound(format!("tokens/{}", t.revoked))),
            _ => {}
        }
        self.append_locked(cell, vec![Body::TokenChanged(t)], who, None).await?;
        self.kick(cell);
        Ok(())
    }
}
