//! The loop of a stand-by: asks at a pace until it is told to stop, and goes on by itself after what passes.

use super::{Following, Position, Ticked, is_passing};
use crate::OpsError;
use backstay_model::{Kind, Kinded};
use std::time::Duration;
use tokio::sync::watch as wish;

/// What happened, for whoever shows it.
pub enum Told<'a> {
    /// A step was done.
    Ticked(&'a Ticked, &'a Position),
    /// The store does not answer, or the copy is held by a reader; it is tried again.
    Away(&'a OpsError),
    Back,
}

/// Follows until it is told to stop. Gives what was done in all.
pub async fn drive(
    following: &mut Following<'_>,
    every: Duration,
    mut stop: wish::Receiver<bool>,
    tell: &dyn Fn(Told<'_>),
) -> Result<Ticked, OpsError> {
    let mut sum = Ticked::default();
    let mut away = false;
    loop {
        match following.tick().await {
            Ok(ticked) => {
                if std::mem::take(&mut away) {
                    tell(Told::Back);
                }
                tell(Told::Ticked(&ticked, &following.position()));
                sum.states += ticked.states;
                sum.objects += ticked.objects;
                sum.jumped = ticked.jumped.or(sum.jumped);
            }
            Err(error) if is_passing(&error) => {
                if !std::mem::replace(&mut away, true) {
                    tell(Told::Away(&error));
                }
            }
            Err(error) if error.kind() == Kind::Cancelled => return Ok(sum),
            Err(error) => return Err(error),
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(sum),
            () = tokio::time::sleep(every) => {}
        }
    }
}
