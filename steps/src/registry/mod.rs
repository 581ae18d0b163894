//! Registries: which image a tag is now, what `docker login` left for them, and the gate's image, made here and pushed without a
//! Docker engine for nodes that pull it.
//!
//! Guarantees: the same binary is the same image, digest and all; what a registry has is not sent again; nothing is asked of a
//! registry before the image is made and its name is understood.
// some of it is asked by AWS alone
#![cfg_attr(not(feature = "aws"), allow(dead_code, unused_imports))]
mod elf;
mod image;
mod login;
mod pin;
mod place;
mod push;

pub use image::Image;
pub use login::credentials;
pub(crate) use login::{config_of, handed_on, is_short, pair, server};
pub(crate) use pin::{Pinned, Refusal, architectures, pin, refusal, repository, user};
pub use place::Place;
pub use push::{Options, Pushed, push};
