//! Prints NVIDIA's devices of this machine and the libraries that are used, or why there are none.
//!
//!     cargo run -p vlct-cuda --example devices

use vlct_cuda::driver::cuda::{Cuda, cublas_lt, devices};

fn main() {
    match cublas_lt() {
        Ok(description) => println!("{description}"),
        Err(reason) => println!("{reason}"),
    }
    let devices = match devices() {
        Ok(devices) => devices,
        Err(reason) => return println!("{reason}"),
    };
    for device in devices {
        let (major, minor) = device.capability;
        let gib = device.memory >> 30;
        println!(
            "{}: {}, compute capability {major}.{minor}, {gib} GiB",
            device.index, device.name
        );
        match Cuda::open(device.index) {
            Ok(cuda) => println!("   {}", cuda.libraries().join("\n   ")),
            Err(reason) => println!("   {reason}"),
        }
    }
}
