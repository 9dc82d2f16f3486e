//! `bftv2 newdisk`: another disk takes the place of the one on which receptions were staged.

use super::exit::{Exit, Failure, Outcome};
use crate::store::shell;
use crate::views::area::{self, Look};
use clap::Args;
use std::path::Path;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  sudo bftv2 newdisk                             # the old disk is dead, an empty one is mounted in its place
  sudo bftv2 newdisk --config /etc/bft2/config.json

While the disk of datadir is away, a node waits for it and forgets nothing. This command says that it does not come back:
DATADIR/transfer is used as it is now, and what is not there is fetched again. Nothing is deleted. The service may run; it
goes on within seconds. Mount the new disk first. bftv2 doctor says whether this is needed.";

/// The mark of the transfer area that the database speaks of.
pub const AREA_MARK: &str = "select mark from area";

/// Use the data directory as it is: another disk took the place of the old one
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct NewdiskArgs {}

impl NewdiskArgs {
    pub async fn run(self, config: &Path) -> Outcome {
        let config = super::configuration(config)?;
        let (db, transfer) = (&config.database, config.transfer_dir());
        let found = shell::query(db, AREA_MARK, Duration::from_secs(5)).await.map_err(Failure::from)?.rows;
        let mark = found.first().and_then(|row| row.first()).cloned().flatten();
        let Some(mark) = mark else {
            println!("{} speaks of no transfer area yet: the service takes what it finds", db.display());
            return Ok(Exit::Ok);
        };
        if area::look(&transfer, &mark) == Look::There {
            println!("{} is the one that {} speaks of: there is nothing to do", transfer.display(), db.display());
            return Ok(Exit::Ok);
        }
        area::accept(&transfer, &mark).map_err(Failure::from)?;
        println!("{} is used from now on: what was staged elsewhere is fetched again", transfer.display());
        Ok(Exit::Ok)
    }
}
