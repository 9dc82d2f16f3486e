//! The header metadata of a track file (ST 377-1 section 9): who made it, the material and file packages with their
//! timecode and essence tracks, and the descriptor that says how to read the frames.

use super::essence::{Picture, Sound};
use super::labels::{self, Property};
use super::mxf::{BODY_STREAM, Essence, INDEX_STREAM, Layout, batch, be16, be32, be64, klv, local_set, ratio, utf16};
use super::options::Standard;
use chrono::Datelike as _;
use std::collections::BTreeSet;
use uuid::Uuid;

const TIMECODE_TRACK: u32 = 1;
const ESSENCE_TRACK: u32 = 2;
/// Identifies the program that made the file.
const PRODUCT: Uuid = Uuid::from_u128(0x62667476_3273_4d70_8c65_6463706d616b);

type Props = Vec<(Property, Vec<u8>)>;

/// Primer pack and sets, ready for [`Layout::head`].
pub fn header_metadata(layout: &Layout, new_id: &mut impl FnMut() -> Uuid) -> Vec<u8> {
    let mut sets = Sets { layout, new_id, used: BTreeSet::new(), out: Vec::new() };
    let (material, source) = (sets.id(), sets.id());
    let descriptor = sets.id();
    sets.preface(&material, &source);
    let [material_umid, source_umid] = [(sets.new_id)(), layout.id].map(umid);
    let clip = [source_umid.clone(), be32(ESSENCE_TRACK)];
    sets.package(labels::SET_MATERIAL_PACKAGE, material, material_umid, "Material Package", clip, None);
    let clip = [vec![0; 32], be32(0)];
    sets.package(labels::SET_SOURCE_PACKAGE, source, source_umid, "File Package", clip, Some(descriptor.clone()));
    match &layout.essence {
        Essence::Picture(picture) => sets.picture_descriptor(descriptor, picture),
        Essence::Sound(sound) => sets.sound_descriptor(descriptor, sound),
    }
    let tags = sets.used.iter().map(|p| [p.tag.to_be_bytes().as_slice(), &p.label.to_be_bytes()].concat());
    [klv(labels::PRIMER, &batch(18, tags)), sets.out].concat()
}

/// A package's 32-byte identifier around a UUID (ST 330).
fn umid(id: Uuid) -> Vec<u8> {
    [0x060a2b34_01010105_01010f20_13000000u128.to_be_bytes(), id.into_bytes()].concat()
}

struct Sets<'a, F> {
    layout: &'a Layout,
    new_id: &'a mut F,
    used: BTreeSet<Property>,
    out: Vec<u8>,
}

impl<F: FnMut() -> Uuid> Sets<'_, F> {
    fn id(&mut self) -> Vec<u8> {
        (self.new_id)().as_bytes().to_vec()
    }

    fn add(&mut self, kind: u8, id: Vec<u8>, props: Props) {
        let props: Props = std::iter::once((labels::INSTANCE_UID, id)).chain(props).collect();
        self.used.extend(props.iter().map(|(p, _)| *p));
        self.out.extend(klv(labels::metadata_set(kind), &local_set(&props)));
    }

    /// Midnight of the plan's date: year, month, day, hour, minute, second, quarter milliseconds.
    fn timestamp(&self) -> Vec<u8> {
        let d = self.layout.date;
        let mut out = be16(u16::try_from(d.year()).unwrap_or(0));
        out.extend([d.month() as u8, d.day() as u8, 0, 0, 0, 0]);
        out
    }

    fn preface(&mut self, material: &[u8], source: &[u8]) {
        let [preface, identification, storage, data] = std::array::from_fn(|_| self.id());
        let generation = self.id();
        let time = self.timestamp();
        let container = self.layout.essence.container().to_be_bytes();
        self.add(
            labels::SET_PREFACE,
            preface,
            vec![
                (labels::LAST_MODIFIED, time.clone()),
                (labels::VERSION, be16(0x0102)),
                (labels::OBJECT_MODEL_VERSION, be32(1)),
                (labels::PRIMARY_PACKAGE, source.to_vec()),
                (labels::IDENTIFICATIONS, batch(16, [&identification])),
                (labels::CONTENT_STORAGE, storage.clone()),
                (labels::OPERATIONAL_PATTERN, labels::op_atom(self.layout.standard).to_be_bytes().to_vec()),
                (labels::ESSENCE_CONTAINERS, batch(16, [container])),
                (labels::DESCRIPTIVE_SCHEMES, batch::<&[u8]>(16, [])),
            ],
        );
        self.add(
            labels::SET_IDENTIFICATION,
            identification,
            vec![
                (labels::GENERATION_UID, generation),
                (labels::COMPANY_NAME, utf16(super::documents::ISSUER)),
                (labels::PRODUCT_NAME, utf16(super::documents::CREATOR)),
                (labels::PRODUCT_VERSION, [1u16, 0, 0, 0, 1].map(be16).concat()),
                (labels::VERSION_STRING, utf16("1.0")),
                (labels::PRODUCT_UID, PRODUCT.as_bytes().to_vec()),
                (labels::MODIFICATION_DATE, time),
            ],
        );
        let packages = batch(16, [material, source]);
        let content = vec![(labels::PACKAGES, packages), (labels::ESSENCE_DATA, batch(16, [&data]))];
        self.add(labels::SET_CONTENT_STORAGE, storage, content);
        let streams = vec![
            (labels::LINKED_PACKAGE, umid(self.layout.id)),
            (labels::INDEX_SID, be32(INDEX_STREAM)),
            (labels::BODY_SID, be32(BODY_STREAM)),
        ];
        self.add(labels::SET_ESSENCE_DATA, data, streams);
    }

    /// A package with its two tracks. `clip` is what the essence track refers to: package and track.
    fn package(&mut self, kind: u8, id: Vec<u8>, uid: Vec<u8>, name: &str, clip: [Vec<u8>; 2], descriptor: Option<Vec<u8>>) {
        let [timecode, essence] = std::array::from_fn(|_| self.id());
        let time = self.timestamp();
        let mut props = vec![
            (labels::PACKAGE_UID, uid),
            (labels::PACKAGE_NAME, utf16(name)),
            (labels::PACKAGE_CREATED, time.clone()),
            (labels::PACKAGE_MODIFIED, time),
            (labels::TRACKS, batch(16, [&timecode, &essence])),
        ];
        let is_source = descriptor.is_some();
        props.extend(descriptor.map(|d| (labels::DESCRIPTOR, d)));
        self.add(kind, id, props);

        let base = u16::try_from(self.layout.fps).unwrap_or(u16::MAX);
        let time_props =
            vec![(labels::TIMECODE_BASE, be16(base)), (labels::START_TIMECODE, be64(0)), (labels::DROP_FRAME, vec![0])];
        self.track(timecode, TIMECODE_TRACK, 0, "Timecode", labels::DATA_TIMECODE, labels::SET_TIMECODE, time_props);

        let number = if is_source { self.layout.essence.track_number() } else { 0 };
        let name = match self.layout.essence {
            Essence::Picture(_) => "Picture",
            Essence::Sound(_) => "Sound",
        };
        let [package, track] = clip;
        let clip_props =
            vec![(labels::START_POSITION, be64(0)), (labels::SOURCE_PACKAGE, package), (labels::SOURCE_TRACK, track)];
        let data = self.layout.essence.data_definition();
        self.track(essence, ESSENCE_TRACK, number, name, data, labels::SET_SOURCE_CLIP, clip_props);
    }

    /// A track, its sequence, and the one component in it.
    #[allow(clippy::too_many_arguments, reason = "one call per kind of track; a struct would only rename the arguments")]
    fn track(&mut self, id: Vec<u8>, number: u32, essence: u32, name: &str, data: u128, component: u8, props: Props) {
        let [sequence, content] = std::array::from_fn(|_| self.id());
        let span =
            vec![(labels::DATA_DEFINITION, data.to_be_bytes().to_vec()), (labels::DURATION, be64(self.layout.frames.count()))];
        let track = vec![
            (labels::TRACK_ID, be32(number)),
            (labels::TRACK_NUMBER, be32(essence)),
            (labels::TRACK_NAME, utf16(name)),
            (labels::TRACK_EDIT_RATE, ratio(self.layout.fps, 1)),
            (labels::ORIGIN, be64(0)),
            (labels::SEQUENCE, sequence.clone()),
        ];
        self.add(labels::SET_TRACK, id, track);
        let components = (labels::COMPONENTS, batch(16, [&content]));
        self.add(labels::SET_SEQUENCE, sequence, span.iter().cloned().chain([components]).collect());
        self.add(component, content, span.into_iter().chain(props).collect());
    }

    fn common_descriptor(&self) -> Props {
        vec![
            (labels::LINKED_TRACK, be32(ESSENCE_TRACK)),
            (labels::SAMPLE_RATE, ratio(self.layout.fps, 1)),
            (labels::CONTAINER_DURATION, be64(self.layout.frames.count())),
            (labels::ESSENCE_CONTAINER, self.layout.essence.container().to_be_bytes().to_vec()),
        ]
    }

    fn picture_descriptor(&mut self, id: Vec<u8>, picture: &Picture) {
        let sub = self.id();
        let mut props = self.common_descriptor();
        // Three 12-bit components (X, Y, Z) a pixel, progressive.
        let pixel = [&[0xd8, 12, 0xd9, 12, 0xda, 12], [0; 10].as_slice()].concat();
        props.extend([
            (labels::PICTURE_CODING, labels::CODING_J2K_CINEMA_2K.to_be_bytes().to_vec()),
            (labels::FRAME_LAYOUT, vec![0]),
            (labels::STORED_WIDTH, be32(picture.width)),
            (labels::STORED_HEIGHT, be32(picture.height)),
            (labels::ASPECT_RATIO, ratio(picture.width, picture.height)),
            (labels::COMPONENT_MAX, be32(4095)),
            (labels::COMPONENT_MIN, be32(0)),
            (labels::PIXEL_LAYOUT, pixel),
            (labels::SUB_DESCRIPTORS, batch(16, [&sub])),
        ]);
        self.add(labels::SET_PICTURE_DESCRIPTOR, id, props);
        let (w, h) = (picture.width, picture.height);
        self.add(
            labels::SET_J2K_SUB_DESCRIPTOR,
            sub,
            vec![
                (labels::J2K_RSIZ, be16(Picture::PROFILE)),
                (labels::J2K_XSIZ, be32(w)),
                (labels::J2K_YSIZ, be32(h)),
                (labels::J2K_XOSIZ, be32(0)),
                (labels::J2K_YOSIZ, be32(0)),
                (labels::J2K_XTSIZ, be32(w)),
                (labels::J2K_YTSIZ, be32(h)),
                (labels::J2K_XTOSIZ, be32(0)),
                (labels::J2K_YTOSIZ, be32(0)),
                (labels::J2K_CSIZ, be16(3)),
                (labels::J2K_COMPONENTS, batch(3, [Picture::COMPONENT; 3])),
                (labels::J2K_CODING_STYLE, Picture::coding_style()),
                (labels::J2K_QUANTIZATION, Picture::quantization()),
            ],
        );
    }

    fn sound_descriptor(&mut self, id: Vec<u8>, sound: &Sound) {
        let mut props = self.common_descriptor();
        let frame = sound.channels * Sound::SAMPLE_BYTES;
        props.extend([
            (labels::LOCKED, vec![0]),
            (labels::AUDIO_RATE, ratio(Sound::RATE, 1)),
            (labels::CHANNEL_COUNT, be32(sound.channels)),
            (labels::QUANTIZATION_BITS, be32(24)),
            (labels::BLOCK_ALIGN, be16(u16::try_from(frame).unwrap_or(u16::MAX))),
            (labels::AVERAGE_RATE, be32(Sound::RATE * frame)),
        ]);
        if self.layout.standard == Standard::Smpte {
            // Interop files carry no channel assignment.
            props.push((labels::CHANNEL_ASSIGNMENT, labels::CHANNELS_WILD_TRACK.to_be_bytes().to_vec()));
        }
        self.add(labels::SET_SOUND_DESCRIPTOR, id, props);
    }
}
