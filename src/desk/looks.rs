//! Looks at files that clients name and at the library: they may lie on a server that does not answer. They wait in threads
//! of their own, so many at a time and for so long, and nobody else waits with them.

use super::{Desk, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Looks at a time, of each kind: together fewer than there are threads for what clients want.
const PLACES: usize = 4;

/// The places of those who look. Who looks at whole packages, which may take its time on a slow disk, takes none of those
/// for a glance.
pub struct Looks {
    glances: Arc<Semaphore>,
    whole: Arc<Semaphore>,
}

impl Default for Looks {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(PLACES));
        Self { glances: places(), whole: places() }
    }
}

/// How long a glance may take; the client waits for longer.
const GLANCE: Duration = Duration::from_secs(20);
/// How long a look at all of a package may take. The client is told after a minute that it goes on.
const WHOLE: Duration = Duration::from_secs(600);

const HANGS: &str = "error, the library does not answer: is its server there, or its disk sound? Ask again later.";

impl Desk {
    /// A look at a few names.
    pub(super) async fn glance<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        self.look(&self.looks.glances, GLANCE, look).await
    }

    /// A look at a whole package.
    pub(super) async fn look_through<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        self.look(&self.looks.whole, WHOLE, look).await
    }

    /// One that takes too long goes on, and nobody hears what it saw.
    async fn look<T: Send + 'static>(
        &self,
        places: &Arc<Semaphore>,
        patience: Duration,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let hangs = || Refusal::for_now(HANGS);
        let Ok(Ok(place)) = timeout(patience, Arc::clone(places).acquire_owned()).await else { return Err(hangs()) };
        let looking = tokio::task::spawn_blocking(move || {
            let _place = place;
            look()
        });
        match timeout(patience, looking).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(e)) => Err(Refusal::for_good(format!("error, looking at the library failed: {e}"))),
            Err(_) => Err(hangs()),
        }
    }
}
