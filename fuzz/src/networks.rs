//! Does every file of a network end in a value that can be written again, or in an error with its place?

use traflux_core::units::BitRate;
use traflux_te::format::{
    Format, FormatError, ReadOptions, WriteOptions, read_matrices, read_network, write_network,
};

/// The first byte chooses the format (or to tell it from the content), the rest is the file.
pub fn check(data: &[u8]) {
    let [first, file @ ..] = data else { return };
    let options =
        ReadOptions { default_capacity: Some(BitRate::gigabits_per_second(1.0)), ..ReadOptions::default() };
    let format = Format::ALL.get(usize::from(*first)).copied().or_else(|| Format::from_content(file));
    let Some(format) = format else { return };
    match read_network(file, format, &options) {
        Ok(read) => {
            for other in Format::ALL.into_iter().filter(|format| *format != Format::Rows) {
                let written =
                    write_network(&read.network, read.demands.as_ref(), other, &WriteOptions::default());
                let written = written.unwrap_or_else(|error| panic!("{error}"));
                if other == Format::NodeLink {
                    let again = read_network(written.text.as_bytes(), other, &options);
                    let again = again.unwrap_or_else(|error| panic!("{error}: {}", written.text));
                    assert_eq!(again.network, read.network, "{}", written.text);
                }
            }
            match read_matrices(file, format, &read.network, &options) {
                Ok(matrices) => assert!(matrices.iter().all(|matrix| matrix.total() >= 0.0)),
                Err(error) => check_error(&error, file),
            }
        }
        Err(error) => check_error(&error, file),
    }
}

fn check_error(error: &FormatError, file: &[u8]) {
    if let Some(place) = error.place() {
        let lines = file.iter().filter(|byte| **byte == b'\n').count() + 2;
        assert!(place.line >= 1 && place.line <= lines && place.column >= 1, "{error} of {lines} lines");
    }
    assert!(!error.to_string().is_empty() && error.to_string().len() < 1000, "{error}");
}
