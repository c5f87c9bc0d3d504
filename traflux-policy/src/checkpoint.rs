//! Can this file be trusted to be the policy it says it is?
//!
//! A checkpoint is one safetensors file: the tensors of [`Parameters`], and in the metadata a JSON document
//! under the key `traflux_policy` with the format's version, the names of all features, the sizes, the action
//! space and where it came from, beside a SHA-256 over that document and every tensor. Loading believes nothing:
//! size, structure, version, checksum, shapes and finiteness are checked in this order, and each failure is a
//! [`CheckpointError`] of its own. Saving writes a sibling file and renames it, so a reader sees the old
//! file or the new one, never half of either.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use traflux_core::ObservationSpace;

use crate::distribution::ActionSpace;
use crate::parameters::{NetworkShape, OWN, Parameters};

/// Name of the format.
pub const FORMAT: &str = "traflux-policy";
/// Version that is written; the only one that is read.
pub const VERSION: u32 = 1;
/// Largest file that is read. The default network takes about 40 kB.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Widest hidden layer: beyond it the tensors would not fit the file, and their sizes not a `usize`.
const MAX_WIDTH: usize = 4096;
/// Most groups with a bias of their own, for the same reason.
const MAX_IDENTITIES: usize = 1 << 22;

const METADATA_KEY: &str = "traflux_policy";

/// Where a checkpoint came from: enough to make it again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Provenance {
    /// The command that trained it.
    pub command: String,
    /// Its seed.
    pub seed: u64,
    /// Environment steps that it learned from.
    pub steps: u64,
    /// Settings of the training, as a JSON object.
    pub hyper_parameters: serde_json::Value,
}

/// A trained policy with everything needed to use it rightly.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The numbers.
    pub parameters: Parameters,
    /// The features that they were trained on.
    pub observations: ObservationSpace,
    /// The actions that they were trained to take.
    pub actions: ActionSpace,
    /// Where it came from.
    pub provenance: Provenance,
}

/// A checkpoint that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refused.
    #[error("checkpoint {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
    /// The file is larger than any checkpoint.
    #[error("checkpoint has {bytes} bytes, limit {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The file ends before its contents do.
    #[error("checkpoint is truncated: {reason}")]
    Truncated {
        /// What is missing.
        reason: String,
    },
    /// The file is not a safetensors file, or not one of ours.
    #[error("not a checkpoint: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The file has another version of the format.
    #[error("checkpoint has format version {found}, expected {expected}")]
    Version {
        /// Version of the file.
        found: u64,
        /// Version that is read here.
        expected: u32,
    },
    /// The contents are not those that were written.
    #[error("checkpoint is corrupt: checksum {found}, expected {expected}")]
    Checksum {
        /// Checksum of the contents.
        found: String,
        /// Checksum in the file.
        expected: String,
    },
    /// A tensor is missing or has another shape than the sizes say.
    #[error("checkpoint tensor `{tensor}` is missing or has the wrong shape")]
    Shape {
        /// Its name.
        tensor: String,
    },
    /// A weight is NaN or infinite.
    #[error("checkpoint tensor `{tensor}` holds {value}")]
    NotFinite {
        /// Its name.
        tensor: String,
        /// The number.
        value: f32,
    },
    /// The policy was trained on other features than the encoder gives.
    #[error("checkpoint was trained on other features: {reason}")]
    Features {
        /// The first difference.
        reason: String,
    },
}

impl CheckpointError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "checkpoint_io",
            Self::TooLarge { .. } => "checkpoint_too_large",
            Self::Truncated { .. } => "checkpoint_truncated",
            Self::Malformed { .. } => "checkpoint_malformed",
            Self::Version { .. } => "checkpoint_version",
            Self::Checksum { .. } => "checkpoint_checksum",
            Self::Shape { .. } => "checkpoint_shape",
            Self::NotFinite { .. } => "checkpoint_not_finite",
            Self::Features { .. } => "checkpoint_features",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::Interrupted | io::ErrorKind::TimedOut)
            }
            _ => false,
        }
    }
}

/// The value of the metadata. The document is a string of JSON, so that the checksum is over its very bytes
/// and not over what a parser makes of its numbers.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    /// Over the document, then every tensor.
    sha256: String,
    document: String,
}

/// The document.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    shape: NetworkShape,
    observations: ObservationSpace,
    actions: ActionSpace,
    provenance: Provenance,
    has_range: bool,
}

impl Checkpoint {
    /// Writes the checkpoint's bytes; equal checkpoints give equal bytes.
    ///
    /// # Errors
    /// [`CheckpointError::NotFinite`] and [`CheckpointError::Shape`]: what cannot be loaded is not written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let shape = self.parameters.shape();
        check_sizes(&shape, &self.observations)?;
        check_actions(&self.actions)?;
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .parameters
            .tensors()
            .into_iter()
            .map(|(name, dims, values)| {
                check_finite(&name, &values)?;
                Ok((name, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            })
            .collect::<Result<_, CheckpointError>>()?;
        let header = Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            shape,
            observations: self.observations.clone(),
            actions: self.actions,
            provenance: self.provenance.clone(),
            has_range: self.parameters.range.is_some(),
        };
        let document = json(&header)?;
        let parts = tensors.iter().map(|(name, dims, bytes)| (name.as_str(), &dims[..], &bytes[..]));
        let envelope = json(&Envelope { sha256: checksum(&document, parts), document })?;
        // One key only: the order of several would differ from run to run, and with it the file.
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), envelope)]);
        let views = tensors
            .iter()
            .map(|(name, dims, bytes)| {
                TensorView::new(Dtype::F32, dims.clone(), bytes).map(|view| (name.as_str(), view))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(malformed)?;
        safetensors::serialize(views, Some(metadata)).map_err(malformed)
    }

    /// Reads a checkpoint's bytes and checks everything in them.
    ///
    /// # Errors
    /// Every [`CheckpointError`] but `Io` and `Features`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(CheckpointError::TooLarge { bytes: bytes.len() as u64, limit: MAX_BYTES });
        }
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
        let file = SafeTensors::deserialize(bytes).map_err(malformed)?;
        let envelope =
            metadata.metadata().as_ref().and_then(|m| m.get(METADATA_KEY)).ok_or_else(|| {
                CheckpointError::Malformed { reason: format!("no metadata `{METADATA_KEY}`") }
            })?;
        let Envelope { sha256: expected, document } = serde_json::from_str(envelope)
            .map_err(|e| CheckpointError::Malformed { reason: e.to_string() })?;
        let header = read_header(&document)?;

        let mut names = file.names();
        names.sort_unstable();
        let mut tensors = HashMap::new();
        for name in &names {
            tensors.insert((*name).to_owned(), file.tensor(name).map_err(malformed)?);
        }
        let sorted = names.iter().map(|name| (*name, tensors[*name].shape(), tensors[*name].data()));
        let found = checksum(&document, sorted);
        if found != expected {
            return Err(CheckpointError::Checksum { found, expected });
        }

        check_sizes(&header.shape, &header.observations)?;
        check_actions(&header.actions)?;
        let parameters = Parameters::from_tensors(header.shape, header.has_range, |name, dims| {
            let view = tensors.get(name).filter(|v| v.dtype() == Dtype::F32 && v.shape() == dims)?;
            Some(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        })
        .map_err(|tensor| CheckpointError::Shape { tensor })?;
        for (name, _, values) in parameters.tensors() {
            check_finite(&name, &values)?;
        }
        Ok(Self {
            parameters,
            observations: header.observations,
            actions: header.actions,
            provenance: header.provenance,
        })
    }

    /// Writes the checkpoint beside `path` and renames it into place.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], and those of [`to_bytes`](Self::to_bytes). On an error the file at `path` is
    /// as it was.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        static SAVES: AtomicU64 = AtomicU64::new(0);
        let bytes = self.to_bytes()?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        let save = SAVES.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".{}-{save}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&partial)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&partial, path)
        };
        write().map_err(|source| {
            // The error that counts is the first one; a leftover is harmless and has a name of its own.
            let _ = fs::remove_file(&partial);
            CheckpointError::Io { path: path.to_owned(), source }
        })
    }

    /// Reads and checks a file, never more than [`MAX_BYTES`] of it.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], and those of [`from_bytes`](Self::from_bytes).
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
    }

    /// Checks that an encoder gives the features that this policy was trained on, in the same order.
    ///
    /// # Errors
    /// [`CheckpointError::Features`] with the first difference.
    pub fn check_space(&self, space: &ObservationSpace) -> Result<(), CheckpointError> {
        let kinds = [
            ("group", &self.observations.group_features, &space.group_features),
            ("context", &self.observations.context_features, &space.context_features),
        ];
        for (kind, trained, given) in kinds {
            for position in 0..trained.len().max(given.len()) {
                let (trained, given) = (trained.get(position), given.get(position));
                if trained != given {
                    let name = |feature: Option<&String>| feature.map_or("none", |f| f.as_str()).to_owned();
                    return Err(CheckpointError::Features {
                        reason: format!(
                            "{kind} feature {position} is `{}`, the encoder gives `{}`",
                            name(trained),
                            name(given)
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    /// The same policy for an encoder that gives further features of groups, such as a user's signals: they
    /// begin without influence, and a learner may give them some.
    ///
    /// # Errors
    /// [`CheckpointError::Features`] when a feature that the policy was trained on is not given.
    pub fn widened(mut self, space: &ObservationSpace) -> Result<Self, CheckpointError> {
        let trained = &self.observations.group_features;
        let places: Vec<Option<usize>> =
            space.group_features.iter().map(|name| trained.iter().position(|t| t == name)).collect();
        if let Some(lost) = trained.iter().find(|name| !space.group_features.contains(name)) {
            return Err(CheckpointError::Features {
                reason: format!("group feature `{lost}` is not given by the encoder"),
            });
        }
        self.parameters = self.parameters.with_group_features(&places);
        self.observations.group_features.clone_from(&space.group_features);
        self.check_space(space)?;
        Ok(self)
    }
}

fn read_header(document: &str) -> Result<Header, CheckpointError> {
    let malformed = |reason: String| CheckpointError::Malformed { reason };
    let value: serde_json::Value = serde_json::from_str(document).map_err(|e| malformed(e.to_string()))?;
    if value.get("format").and_then(|f| f.as_str()) != Some(FORMAT) {
        return Err(malformed(format!("metadata `format` is not `{FORMAT}`")));
    }
    // Before the rest is parsed: another version may have other fields.
    let found = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if found != u64::from(VERSION) {
        return Err(CheckpointError::Version { found, expected: VERSION });
    }
    serde_json::from_value(value).map_err(|e| malformed(e.to_string()))
}

fn json(value: &impl Serialize) -> Result<String, CheckpointError> {
    serde_json::to_string(value).map_err(|e| CheckpointError::Malformed { reason: e.to_string() })
}

fn checksum<'a>(document: &str, tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> String {
    let mut hash = Sha256::new();
    hash.update((document.len() as u64).to_le_bytes());
    hash.update(document);
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_unstable();
    for (name, dims, bytes) in tensors {
        // Lengths go in too, so that no byte can move from one field to its neighbour.
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((dims.len() as u64).to_le_bytes());
        dims.iter().for_each(|d| hash.update((*d as u64).to_le_bytes()));
        hash.update(bytes);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_sizes(shape: &NetworkShape, space: &ObservationSpace) -> Result<(), CheckpointError> {
    let wrong = |tensor: &str| Err(CheckpointError::Shape { tensor: tensor.to_owned() });
    if shape.hidden == 0 || shape.hidden > MAX_WIDTH || shape.group_features != space.group_features.len() {
        return wrong("encoder.0.weight");
    }
    if shape.context_features != space.context_features.len() {
        return wrong("trunk.0.weight");
    }
    if shape.identities > MAX_IDENTITIES {
        return wrong(OWN);
    }
    Ok(())
}

fn check_actions(actions: &ActionSpace) -> Result<(), CheckpointError> {
    let bounds = &actions.bounds;
    let valid = bounds.headroom_max >= 0.0
        && bounds.multiplier_min > 0.0
        && bounds.multiplier_min <= bounds.multiplier_max
        && actions.neutral_headroom >= 0.0;
    if valid {
        Ok(())
    } else {
        Err(CheckpointError::Malformed { reason: format!("actions have the impossible bounds {bounds:?}") })
    }
}

fn check_finite(tensor: &str, values: &[f32]) -> Result<(), CheckpointError> {
    match values.iter().find(|v| !v.is_finite()) {
        Some(value) => Err(CheckpointError::NotFinite { tensor: tensor.to_owned(), value: *value }),
        None => Ok(()),
    }
}

fn malformed(error: SafeTensorError) -> CheckpointError {
    let reason = error.to_string();
    match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => CheckpointError::Truncated { reason },
        _ => CheckpointError::Malformed { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learned::LearnedPolicy;
    use crate::range::InputRange;
    use ndarray::{arr1, arr2};
    use traflux_core::{Observation, Policy};

    fn space() -> ObservationSpace {
        ObservationSpace {
            group_features: vec!["utilization".into(), "price".into()],
            context_features: vec!["load".into()],
        }
    }

    fn checkpoint() -> Checkpoint {
        let shape = NetworkShape { group_features: 2, context_features: 1, hidden: 4, identities: 0 };
        let mut parameters = Parameters::seeded(shape, 9);
        let mut range = InputRange::empty(2, 1);
        range.extend(&Observation {
            groups: arr2(&[[0.1, 0.2], [0.5, -0.3]]),
            context: arr1(&[1.0]),
            mask: vec![true; 2],
        });
        parameters.range = Some(range);
        Checkpoint {
            parameters,
            observations: space(),
            actions: ActionSpace { critical: 3, ..ActionSpace::default() },
            provenance: Provenance {
                command: "traflux train --seed 9".into(),
                seed: 9,
                steps: 1000,
                hyper_parameters: serde_json::json!({ "discount": 0.9 }),
            },
        }
    }

    fn envelope(bytes: &[u8]) -> Envelope {
        let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
        serde_json::from_str(&metadata.metadata().as_ref().unwrap()[METADATA_KEY]).unwrap()
    }

    /// Rewrites the JSON document and leaves checksum and tensors as they are.
    fn with_document(bytes: &[u8], change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let mut envelope = envelope(bytes);
        let mut document = serde_json::from_str(&envelope.document).unwrap();
        change(&mut document);
        envelope.document = document.to_string();
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json(&envelope).unwrap())]);
        safetensors::serialize(SafeTensors::deserialize(bytes).unwrap().tensors(), Some(metadata)).unwrap()
    }

    #[test]
    fn a_saved_checkpoint_loads_equal_and_its_bytes_repeat() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.safetensors");
        checkpoint().save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint());
        assert_eq!(fs::read(&path).unwrap(), checkpoint().to_bytes().unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn a_widened_policy_decides_as_before_whatever_the_new_feature_says() {
        let mut wide = space();
        wide.group_features.insert(1, "signal.cpu".into());
        let widened = checkpoint().widened(&wide).unwrap();
        assert_eq!(Checkpoint::from_bytes(&widened.to_bytes().unwrap()).unwrap(), widened);
        let mut narrow_policy = LearnedPolicy::from_checkpoint(&checkpoint(), &space()).unwrap();
        let mut wide_policy = LearnedPolicy::from_checkpoint(&widened, &wide).unwrap();
        let context = arr1(&[1.0]);
        for cpu in [-10.0, 0.0, 1.0, 10.0] {
            let narrow = Observation {
                groups: arr2(&[[0.1, 0.2], [0.5, -0.3]]),
                context: context.clone(),
                mask: vec![true; 2],
            };
            let given = Observation { groups: arr2(&[[0.1, cpu, 0.2], [0.5, -cpu, -0.3]]), ..narrow.clone() };
            assert_eq!(wide_policy.act(&given).unwrap(), narrow_policy.act(&narrow).unwrap());
            assert_eq!(wide_policy.status().fallbacks(), 0);
        }
        let mut other = space();
        other.group_features[0] = "load".into();
        assert_eq!(checkpoint().widened(&other).unwrap_err().code(), "checkpoint_features");
    }

    #[test]
    fn saving_replaces_the_file_whole_and_a_failure_leaves_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.safetensors");
        checkpoint().save(&path).unwrap();
        let mut broken = checkpoint();
        broken.parameters.log_std[0] = f32::NAN;
        assert_eq!(broken.save(&path).unwrap_err().code(), "checkpoint_not_finite");
        assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint());
        let nowhere = directory.path().join("missing").join("policy.safetensors");
        assert_eq!(checkpoint().save(&nowhere).unwrap_err().code(), "checkpoint_io");
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let bytes = checkpoint().to_bytes().unwrap();
        for length in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
            let error = Checkpoint::from_bytes(&bytes[..length]).unwrap_err();
            assert_eq!(error.code(), "checkpoint_truncated", "{length}: {error}");
        }
    }

    #[test]
    fn a_flipped_bit_in_any_tensor_byte_fails_the_checksum() {
        let bytes = checkpoint().to_bytes().unwrap();
        let header = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        for position in (header..bytes.len()).step_by(11) {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1;
            let error = Checkpoint::from_bytes(&flipped).unwrap_err();
            assert_eq!(error.code(), "checkpoint_checksum", "byte {position}");
        }
    }

    #[test]
    fn changed_metadata_fails_the_checksum_too() {
        let bytes = with_document(&checkpoint().to_bytes().unwrap(), |document| {
            document["actions"]["critical"] = 99.into();
        });
        assert_eq!(Checkpoint::from_bytes(&bytes).unwrap_err().code(), "checkpoint_checksum");
    }

    #[test]
    fn another_version_or_format_is_named() {
        let bytes = checkpoint().to_bytes().unwrap();
        let newer = with_document(&bytes, |document| document["version"] = 2.into());
        let error = Checkpoint::from_bytes(&newer).unwrap_err();
        assert_eq!(error.to_string(), "checkpoint has format version 2, expected 1");
        let other = with_document(&bytes, |document| document["format"] = "other".into());
        assert_eq!(Checkpoint::from_bytes(&other).unwrap_err().code(), "checkpoint_malformed");
        let foreign =
            safetensors::serialize(SafeTensors::deserialize(&bytes).unwrap().tensors(), None).unwrap();
        assert_eq!(Checkpoint::from_bytes(&foreign).unwrap_err().code(), "checkpoint_malformed");
    }

    #[test]
    fn weights_that_are_not_finite_are_refused_even_under_a_right_checksum() {
        let mut poisoned = checkpoint();
        poisoned.parameters.dense[2].weight[1] = f32::INFINITY;
        // Written by hand, since to_bytes refuses it.
        let document = envelope(&checkpoint().to_bytes().unwrap()).document;
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = poisoned
            .parameters
            .tensors()
            .into_iter()
            .map(|(n, d, v)| (n, d, v.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let sha256 = checksum(&document, tensors.iter().map(|(n, d, b)| (n.as_str(), &d[..], &b[..])));
        let views =
            tensors.iter().map(|(n, d, b)| (n.as_str(), TensorView::new(Dtype::F32, d.clone(), b).unwrap()));
        let envelope = json(&Envelope { sha256, document }).unwrap();
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), envelope)]);
        let bytes = safetensors::serialize(views, Some(metadata)).unwrap();
        let error = Checkpoint::from_bytes(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "checkpoint tensor `trunk.0.weight` holds inf");
    }

    #[test]
    fn tensors_of_another_shape_are_refused() {
        let mut other = checkpoint();
        other.observations.group_features.push("tier".into());
        assert_eq!(other.to_bytes().unwrap_err().code(), "checkpoint_shape");
        let small = Parameters::seeded(
            NetworkShape { group_features: 2, context_features: 1, hidden: 3, identities: 0 },
            1,
        );
        let wrong = Parameters { shape: checkpoint().parameters.shape, ..small };
        let bytes = Checkpoint { parameters: wrong, ..checkpoint() }.to_bytes();
        assert!(bytes.is_err(), "lengths that do not fit the shape are not written");
    }

    #[test]
    fn sizes_and_bounds_that_cannot_be_are_refused() {
        let mut wide = checkpoint();
        wide.parameters.shape.hidden = usize::MAX;
        assert_eq!(wide.to_bytes().unwrap_err().code(), "checkpoint_shape");
        let mut crossed = checkpoint();
        crossed.actions.bounds.multiplier_min = 3.0;
        assert_eq!(crossed.to_bytes().unwrap_err().code(), "checkpoint_malformed");
    }

    #[test]
    fn another_feature_is_named_by_its_position() {
        let mut given = space();
        assert!(checkpoint().check_space(&given).is_ok());
        given.group_features[1] = "tier".into();
        let error = checkpoint().check_space(&given).unwrap_err();
        assert_eq!(
            error.to_string(),
            "checkpoint was trained on other features: group feature 1 is `price`, the encoder gives `tier`"
        );
        given = space();
        given.context_features.clear();
        assert_eq!(checkpoint().check_space(&given).unwrap_err().code(), "checkpoint_features");
    }

    #[test]
    fn a_file_beyond_the_size_limit_is_refused_without_being_parsed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("huge.safetensors");
        File::create(&path).unwrap().set_len(MAX_BYTES * 64).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap_err().code(), "checkpoint_too_large");
        assert_eq!(Checkpoint::load(&directory.path().join("none")).unwrap_err().code(), "checkpoint_io");
    }

    #[test]
    fn arbitrary_bytes_are_an_error_and_never_a_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let good = checkpoint().to_bytes().unwrap();
        for round in 0..300 {
            let mut bytes = if round % 2 == 0 { good.clone() } else { vec![0; 200] };
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let position = (state >> 33) as usize % bytes.len();
                bytes[position] ^= (state >> 17) as u8 | 1;
            }
            assert!(Checkpoint::from_bytes(&bytes).is_err() || bytes == good);
        }
    }
}
