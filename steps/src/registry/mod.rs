//! The gate's image in a registry, for nodes that pull it: made here, pushed without a Docker engine.
//!
//! Guarantees: the same binary is the same image, digest and all; what a registry has is not sent again; nothing is asked of a
//! registry before the image is made and its name is understood.
mod elf;
mod image;
mod login;
mod place;
mod push;

pub use image::Image;
pub use login::credentials;
pub(crate) use login::server;
pub use place::Place;
pub use push::{Options, Pushed, push};
