//! From options to track files: how many frames, how large, which files a second version shares.
//!
//! Cinema pictures have at most 250 Mbit/s, so a larger package is a longer film, never a higher rate. The plan knows
//! every track file's length to the byte before anything is written: the bar's total and a free choice of the size
//! follow from that.

use super::essence::{FrameSizes, Picture, Sound};
use super::mxf::{Essence, FRAME_OVERHEAD, Layout};
use super::options::{Checked, DEFAULT_SIZE, SampleOptions};
use crate::error::Fault;
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use sha1::{Digest as _, Sha1};
use uuid::Uuid;

/// What servers take, in bits a second (DCI specification).
const MAX_PICTURE_RATE: u64 = 250_000_000;
/// Aimed at when the size is free: the rate of a usual film.
const USUAL_PICTURE_RATE: u64 = 153_600_000;
/// The picture: 2K, flat.
pub const WIDTH: u32 = 1998;
pub const HEIGHT: u32 = 1080;
/// Up to this many tracks the best set to share is searched, beyond it is approached.
const MAX_EXACT_TRACKS: usize = 16;

/// A track file to be made.
#[derive(Clone, Debug)]
pub struct Track {
    pub layout: Layout,
    /// Seeds the frames and the identifiers inside the file.
    pub seed: u64,
}

impl Track {
    pub fn bytes(&self) -> u64 {
        self.layout.file_len()
    }
}

/// A reel of a composition: a picture and a sound track.
#[derive(Clone, Debug)]
pub struct Reel {
    pub picture: Track,
    pub sound: Track,
}

/// A whole run.
#[derive(Debug)]
pub struct Plan {
    pub reels: Vec<Reel>,
    /// The sounds of the VF, one a reel.
    pub vf_sounds: Vec<Track>,
    /// The second version's reels; a track with an id of the first version's is a copy.
    pub version2: Vec<Reel>,
    pub seed: Seed,
}

/// Where all that looks random comes from. Every option takes part, because an identifier must never stand for two
/// contents and two samples of different names shall be different films; but the companions do not, so that a
/// package stays the same when a VF or a second version is asked for later.
#[derive(Debug)]
pub struct Seed(Sha1);

impl Seed {
    fn of(checked: &Checked) -> Self {
        let own = SampleOptions { vf: None, version2: None, force: false, ..checked.options.clone() };
        Self(Sha1::new_with_prefix(format!("{own:?}")))
    }
    /// A generator of its own for each part of the work.
    pub fn ids(&self, part: &str) -> Ids {
        let digest: [u8; 20] = self.0.clone().chain_update(part).finalize().into();
        Ids::new(digest.iter().take(8).fold(0, |n, &b| n << 8 | u64::from(b)))
    }
}

/// Reproducible random UUIDs and seeds.
#[derive(Debug)]
pub struct Ids(SmallRng);

impl Ids {
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }
    pub fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        self.0.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
    pub fn seed(&mut self) -> u64 {
        self.0.next_u64()
    }
}

impl Plan {
    pub fn new(checked: &Checked) -> Result<Self, Fault> {
        let length = Length::of(checked)?;
        let seed = Seed::of(checked);
        let mut ids = seed.ids("tracks");
        let reels: Vec<Reel> = length
            .reels
            .iter()
            .map(|r| Reel { picture: picture(checked, r, &mut ids), sound: sound(checked, r.frames, &mut ids) })
            .collect();
        let mut ids = seed.ids("vf");
        let vf_sounds = match checked.vf {
            Some(_) => length.reels.iter().map(|r| sound(checked, r.frames, &mut ids)).collect(),
            None => Vec::new(),
        };
        let version2 = match checked.version2 {
            Some((_, share)) => second_version(checked, &length, &reels, share, &mut seed.ids(&format!("version 2, {share}"))),
            None => Vec::new(),
        };
        Ok(Self { reels, vf_sounds, version2, seed })
    }

    /// The bytes of all track files of all packages: what the progress callback counts up to.
    pub fn track_bytes(&self) -> u64 {
        let reels = self.reels.iter().chain(&self.version2);
        reels.flat_map(|r| [&r.picture, &r.sound]).chain(&self.vf_sounds).map(Track::bytes).sum()
    }
}

/// The length of one reel.
struct ReelLength {
    frames: u64,
    picture_bytes: u64,
}

struct Length {
    reels: Vec<ReelLength>,
}

impl Length {
    fn of(checked: &Checked) -> Result<Self, Fault> {
        let o = &checked.options;
        let (fps, reels) = (u64::from(o.fps), u64::from(o.reels));
        let usual = USUAL_PICTURE_RATE / 8 / fps;
        let most = MAX_PICTURE_RATE / 8 / fps * 10 / 11 - 1; // a frame may be a tenth larger than the mean
        let sound = u64::from(Sound::frame_bytes(o.channels, o.fps)) + FRAME_OVERHEAD;
        let size = o.size.or(o.seconds.is_none().then_some(DEFAULT_SIZE));
        let frames = match (o.seconds, size) {
            (Some(s), _) => (s * f64::from(o.fps)) as u64,
            (None, size) => size.unwrap_or(DEFAULT_SIZE) / (usual + sound + FRAME_OVERHEAD),
        };
        let frames = frames.max(fps * reels);
        let pictures = match size {
            None => usual * frames,
            Some(size) => {
                let fixed = fixed_bytes(checked, frames);
                let least = fixed + frames * Picture::MIN_BYTES * 10 / 9 + frames;
                if size < least {
                    return Err(Fault::permanent(format!(
                        "--size {size} is too small: {frames} frames in {reels} reel(s) need at least {least} bytes \
                         (a reel has at least one second)"
                    )));
                }
                size - fixed
            }
        };
        if pictures / frames > most {
            let needed = pictures.div_ceil(most * fps);
            return Err(Fault::permanent(format!(
                "--size and --seconds together ask for more than the 250 Mbit/s a cinema plays: \
                 give --seconds {needed} or more, or leave --seconds out"
            )));
        }
        // Dealt out to the reels as evenly as whole frames allow; bytes follow frames.
        let frames_before = |i: u64| frames * i / reels;
        let bytes_before = |i: u64| pictures * frames_before(i) / frames;
        let lengths = (0..reels).map(|i| ReelLength {
            frames: frames_before(i + 1) - frames_before(i),
            picture_bytes: bytes_before(i + 1) - bytes_before(i),
        });
        Ok(Self { reels: lengths.collect() })
    }
}

/// What a package holds beside the pictures' frames: sound, containers, and about the size of the documents.
fn fixed_bytes(checked: &Checked, frames: u64) -> u64 {
    let reels = u64::from(checked.options.reels);
    let mut ids = Ids::new(0);
    let per_reel = |n| {
        let length = ReelLength { frames: n, picture_bytes: 0 };
        picture(checked, &length, &mut ids).bytes() + sound(checked, n, &mut ids).bytes()
    };
    let counts = (0..reels).map(|i| frames / reels + u64::from(i < frames % reels));
    let documents = 3_500 + 3_000 * reels;
    counts.map(per_reel).sum::<u64>() + documents
}

fn picture(checked: &Checked, length: &ReelLength, ids: &mut Ids) -> Track {
    let essence = Essence::Picture(Picture { width: WIDTH, height: HEIGHT });
    let sizes = FrameSizes::varying(length.frames, length.picture_bytes, ids.seed());
    track(checked, essence, sizes, ids)
}

fn sound(checked: &Checked, frames: u64, ids: &mut Ids) -> Track {
    let o = &checked.options;
    let sizes = FrameSizes::constant(frames, Sound::frame_bytes(o.channels, o.fps));
    track(checked, Essence::Sound(Sound { channels: o.channels }), sizes, ids)
}

fn track(checked: &Checked, essence: Essence, frames: FrameSizes, ids: &mut Ids) -> Track {
    let o = &checked.options;
    let layout = Layout { standard: o.standard, id: ids.uuid(), fps: o.fps, essence, frames, date: o.date };
    Track { layout, seed: ids.seed() }
}

/// The first version's reels with some tracks made anew, so that `share` percent of the track bytes stay.
fn second_version(checked: &Checked, length: &Length, first: &[Reel], share: f64, ids: &mut Ids) -> Vec<Reel> {
    let sizes: Vec<u64> = first.iter().map(|r| r.sound.bytes()).chain(first.iter().map(|r| r.picture.bytes())).collect();
    let total: u64 = sizes.iter().sum();
    let renewed = nearest_subset(&sizes, (total as f64 * (100.0 - share) / 100.0) as u64);
    let is_new = |i: usize| renewed.get(i).copied().unwrap_or(false);
    let tracks = first.iter().zip(&length.reels).enumerate();
    let reels = tracks.map(|(i, (reel, length))| Reel {
        sound: if is_new(i) { sound(checked, length.frames, ids) } else { reel.sound.clone() },
        picture: if is_new(first.len() + i) { picture(checked, length, ids) } else { reel.picture.clone() },
    });
    reels.collect()
}

/// Which of `sizes` to take so that their sum is nearest to `target`. Small sets are searched; large ones are filled
/// from the largest down, which is off by less than the smallest track that was left out.
fn nearest_subset(sizes: &[u64], target: u64) -> Vec<bool> {
    if sizes.len() > MAX_EXACT_TRACKS {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sizes.get(i).copied().unwrap_or(0)));
        let (mut taken, mut left) = (vec![false; sizes.len()], target);
        for i in order {
            if let (Some(&size), Some(take)) = (sizes.get(i), taken.get_mut(i)) {
                // Half a track too many is nearer than half a track too few.
                *take = size <= left || size - left < left;
                left = if *take { left.saturating_sub(size) } else { left };
            }
        }
        return taken;
    }
    let member = |set: u32, i: usize| set >> i & 1 == 1;
    let sum = |set: u32| -> u64 { sizes.iter().enumerate().filter(|&(i, _)| member(set, i)).map(|(_, n)| n).sum() };
    // On a tie the lower number wins: sounds come first, a new language is the usual second version.
    let best = (0..1u32 << sizes.len()).min_by_key(|&set| sum(set).abs_diff(target)).unwrap_or(0);
    (0..sizes.len()).map(|i| member(best, i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(options: SampleOptions) -> Result<Plan, Fault> {
        Plan::new(&options.check()?)
    }

    #[test]
    fn a_large_package_is_a_longer_film() {
        let p = plan(SampleOptions { size: Some(8_000_000_000), ..SampleOptions::default() }).unwrap();
        let reel = &p.reels[0];
        assert!(reel.picture.layout.frames.count() > 300 * 24);
        assert!(reel.picture.layout.frames.iter().max().unwrap() < 1_302_083, "250 Mbit/s at 24 frames a second");
        assert!(p.track_bytes().abs_diff(8_000_000_000) < 10_000);
    }

    #[test]
    fn rates_beyond_the_cinema_are_refused_and_the_limit_is_reachable() {
        let ask =
            |size, seconds| plan(SampleOptions { size: Some(size), seconds: Some(seconds), fps: 48, ..SampleOptions::default() });
        let fault = ask(8_000_000_000, 10.0).unwrap_err();
        let needed: f64 = fault.message.split("give --seconds ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let p = ask(8_000_000_000, needed).unwrap();
        assert!(p.reels[0].picture.layout.frames.iter().max().unwrap() <= 651_041);
    }

    #[test]
    fn sets_are_near_their_target() {
        assert_eq!(nearest_subset(&[5, 5, 90, 90], 11), [true, true, false, false]);
        assert_eq!(nearest_subset(&[5, 5, 90, 90], 0), [false; 4]);
        assert_eq!(nearest_subset(&[5, 5, 90, 90], 190), [true; 4]);
        let many: Vec<u64> = [vec![40; 30], vec![960; 30]].concat();
        for percent in [0, 10, 37, 50, 100] {
            let target = 30_000 * percent / 100;
            let sum: u64 = nearest_subset(&many, target).iter().zip(&many).filter(|(t, _)| **t).map(|(_, n)| n).sum();
            assert!(sum.abs_diff(target) <= 480, "{sum} for {target}");
        }
    }
}
