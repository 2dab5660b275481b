//! What is tested with the simulated libraries.

use libloading::{Library, Symbol};
use std::path::Path;
use std::sync::Arc;
use vlct_cuda::context::{Allocation, Context};
use vlct_cuda::driver::cuda::{Cuda, Nccl, Unavailable, Version, devices, nccl, unique_id};
use vlct_cuda::driver::{
    Address, Communicator, Driver, Element, Epilogue, Error, Event, Matmul, MemoryInfo, Operand, Stream,
};
use vlct_cuda::elementwise;

type Outcome = Result<(), String>;

/// A test with the environment variables of its process.
pub struct Scenario {
    pub name: &'static str,
    pub variables: &'static [(&'static str, &'static str)],
    check: fn() -> Outcome,
}

pub static ALL: [Scenario; 15] = [
    scenario("lists_the_device", &[], lists_the_device),
    scenario("rejects_an_old_driver", &[("SIMULATED_VERSION", "12080")], || {
        let supported = Version(12, 8);
        equal("devices", devices(), Err(Unavailable::DriverTooOld { supported }))
    }),
    scenario(
        "says_that_there_is_no_device",
        &[("SIMULATED_DEVICES", "0"), ("CUDA_VISIBLE_DEVICES", "")],
        || equal("devices", devices(), Err(Unavailable::NoDevice { hidden: true })),
    ),
    scenario(
        "rejects_an_old_device",
        &[("SIMULATED_MAJOR", "7")],
        rejects_an_old_device,
    ),
    scenario("copies_follow_the_stream", &[], copies_follow_the_stream),
    scenario("copies_to_the_device_are_staged", &[], copies_to_the_device_are_staged),
    scenario("events_order_streams", &[], events_order_streams),
    scenario("kernels_are_launched", &[], kernels_are_launched),
    scenario("products_are_computed", &[], products_are_computed),
    scenario("algorithms_are_queried_once", &[], algorithms_are_queried_once),
    scenario("memory_is_limited", &[("SIMULATED_MEMORY", "10000")], memory_is_limited),
    scenario("everything_is_freed", &[], everything_is_freed),
    scenario("nccl_is_described", &[], nccl_is_described),
    scenario("ranks_exchange_values", &[], ranks_exchange_values),
    scenario("failures_of_ranks_are_errors", &[], failures_of_ranks_are_errors),
];

const fn scenario(
    name: &'static str,
    variables: &'static [(&'static str, &'static str)],
    check: fn() -> Outcome,
) -> Scenario {
    Scenario { name, variables, check }
}

/// Runs a test by its name.
pub fn run(name: &str) -> Outcome {
    let scenario = ALL.iter().find(|scenario| scenario.name == name);
    (scenario.ok_or("there is no such test")?.check)()
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want {
        return Ok(());
    }
    Err(format!("{what}: {got:?} instead of {want:?}"))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn open() -> Result<Cuda, String> {
    Cuda::open(0).map_err(text)
}

fn context() -> Result<Context, String> {
    Context::new(Arc::new(open()?), Allocation::Separate).map_err(text)
}

/// What exists in the simulation: memory, host memory, streams, events, modules, contexts, objects of cuBLASLt; heuristic queries; and
/// communicators.
fn counts() -> Result<[i32; 9], String> {
    let directory = std::env::var("VLCT_CUDA").map_err(text)?;
    let mut counts = [0; 9];
    // SAFETY: the library is the simulation, whose function writes nine numbers.
    unsafe {
        let library = Library::new(Path::new(&directory).join("libcuda.so.1")).map_err(text)?;
        let function: Symbol<unsafe extern "C" fn(*mut i32)> = library.get(b"simulated_counts\0").map_err(text)?;
        function(counts.as_mut_ptr());
    }
    Ok(counts)
}

fn lists_the_device() -> Outcome {
    let devices = devices().map_err(text)?;
    equal("devices", devices.len(), 1)?;
    equal("name", devices[0].name.as_str(), "Simulated")?;
    equal("capability", devices[0].capability, (9, 0))?;
    equal("memory", devices[0].memory, 1 << 30)?;
    let cuda = open()?;
    equal("opened", cuda.device(), &devices[0])?;
    equal("multiprocessors", cuda.multiprocessors(), 132)?;
    let [driver, cublas_lt] = cuda.libraries() else {
        return Err("there are two libraries".into());
    };
    equal(
        "driver",
        driver.starts_with("driver of CUDA 13.0: ") && driver.ends_with("(VLCT_CUDA)"),
        true,
    )?;
    equal("cuBLASLt", cublas_lt.starts_with("cuBLASLt 13.0.5: "), true)?;
    let missing = Cuda::open(1).err();
    equal(
        "device 1",
        missing,
        Some(Unavailable::NoSuchDevice { index: 1, count: 1 }),
    )
}

fn rejects_an_old_device() -> Outcome {
    let is_unsupported =
        |reason: Option<Unavailable>| matches!(reason, Some(Unavailable::Unsupported { capability: (7, 0), .. }));
    equal("devices", is_unsupported(devices().err()), true)?;
    equal("open", is_unsupported(Cuda::open(0).err()), true)
}

fn copies_follow_the_stream() -> Outcome {
    let check = || -> Result<Vec<u8>, Error> {
        let cuda = Cuda::open(0).expect("a device");
        let stream = cuda.create_stream()?;
        let (first, second) = (cuda.allocate(8)?, cuda.allocate(8)?);
        cuda.fill(first, 7, 8, stream)?;
        cuda.copy_to_device(first.offset(2), &[1, 2, 3], stream)?;
        cuda.copy(second, first, 8, stream)?;
        cuda.fill(first, 0, 8, stream)?;
        let mut bytes = vec![0; 8];
        cuda.copy_to_host(&mut bytes, second, stream)?;
        let outside = cuda.copy_to_device(first.offset(6), &[1, 2, 3], stream);
        assert!(matches!(outside, Err(Error::InvalidRange { .. })), "{outside:?}");
        let overlapping = cuda.copy(first.offset(1), first, 4, stream);
        assert!(
            matches!(overlapping, Err(Error::InvalidArgument { .. })),
            "{overlapping:?}"
        );
        // A thread that has no current context.
        std::thread::scope(|scope| scope.spawn(|| cuda.fill(first, 0, 8, stream)).join().expect("no panic"))?;
        for missing in [
            cuda.synchronize(Stream(1)),
            cuda.record(Event(1), stream),
            cuda.destroy_event(Event(1)),
        ] {
            assert!(matches!(missing, Err(Error::Driver { .. })), "{missing:?}");
        }
        Ok(bytes)
    };
    equal("bytes", check().map_err(text)?, vec![7, 7, 1, 2, 3, 7, 7, 7])
}

/// The simulation reads the staged bytes as late as possible: parts of the ring must not be reused before, also if all copies are larger
/// than the ring.
fn copies_to_the_device_are_staged() -> Outcome {
    let context = context()?;
    let sizes = [1000, 9 << 20, 40 << 20, 3, 20 << 20, 7 << 20];
    let mut buffers = Vec::new();
    for (seed, size) in sizes.into_iter().enumerate() {
        let mut bytes: Vec<u8> = (0..size).map(|i| (i % 251 + seed) as u8).collect();
        let buffer = context.upload(&bytes).map_err(text)?;
        buffers.push((buffer, bytes.clone()));
        bytes.fill(0);
    }
    for (buffer, want) in &buffers {
        let mut got = vec![0u8; want.len()];
        context.download(buffer, &mut got).map_err(text)?;
        equal("copy", got == *want, true)?;
    }
    equal("ring", counts()?[1], 1)
}

fn events_order_streams() -> Outcome {
    let check = || -> Result<(Vec<u8>, f64), Error> {
        let cuda = Cuda::open(0).expect("a device");
        let (one, two) = (cuda.create_stream()?, cuda.create_stream()?);
        let memory = cuda.allocate(4)?;
        let (start, end) = (cuda.create_event()?, cuda.create_event()?);
        assert!(cuda.elapsed(start, end).is_err(), "the events were not recorded");
        cuda.record(start, one)?;
        cuda.fill(memory, 5, 4, one)?;
        cuda.record(end, one)?;
        cuda.wait(two, end)?;
        let mut bytes = vec![0; 4];
        cuda.copy_to_host(&mut bytes, memory, two)?;
        let elapsed = cuda.elapsed(start, end)?;
        cuda.destroy_event(start)?;
        cuda.destroy_stream(one)?;
        Ok((bytes, elapsed.as_secs_f64()))
    };
    equal("bytes and seconds", check().map_err(text)?, (vec![5; 4], 0.0025))
}

fn kernels_are_launched() -> Outcome {
    let context = context()?;
    let mut buffer = context.zeros(40).map_err(text)?;
    elementwise::fill(&context, 1.5, buffer.matrix_mut(2, 5, Element::F32)).map_err(text)?;
    let mut values = [0f32; 10];
    context.download(&buffer, &mut values).map_err(text)?;
    equal("values", values, [1.5; 10])?;
    let (value, address, count) = (2.0f32, buffer.address(), 10i64);
    let arguments = [
        (&raw const value).cast(),
        (&raw const address).cast(),
        (&raw const count).cast(),
    ];
    let launch = |kernel: &str, shared: u32| {
        // SAFETY: the arguments are those of `fill_f32`; other kernels are not executed.
        unsafe {
            context
                .driver()
                .launch(kernel, [1; 3], [1; 3], shared, context.stream(), &arguments)
        }
    };
    // More than 48 KiB need an attribute of the function.
    launch("fill_f32", 200 << 10).map_err(text)?;
    launch("fill_f32", 100).map_err(text)?;
    equal("modules", counts()?[4], 1)?;
    equal(
        "unknown",
        launch("no_kernel", 0),
        Err(Error::UnknownKernel("no_kernel".into())),
    )?;
    let too_much = launch("fill_f32", 228 << 10).map_err(text);
    let limit = "launch of fill_f32: 233472 bytes of shared memory exceed the device's limit of 232448";
    equal("too much shared memory", too_much, Err(limit.into()))?;
    let failed = launch("add_f32", 0)
        .map_err(text)
        .expect_err("the simulation knows no other kernel");
    let want = "launch of add_f32: simulated error (CUDA_ERROR_SIMULATED), with the grid [1, 1, 1]";
    equal("failed", failed.starts_with(want), true)
}

/// A product of matrices whose elements are small integers, so that sums are exact.
fn product(context: &Context, m: usize, epilogue: bool, beta: f32) -> Result<Outcome, Error> {
    let (n, k) = (5, 4);
    let values = |count: usize, seed: usize| {
        (0..count)
            .map(|i| ((i * 7 + seed) % 5) as f32 - 2.0)
            .collect::<Vec<_>>()
    };
    let (a, b, c, bias) = (values(m * k, 1), values(n * k, 2), values(m * n, 3), values(n, 4));
    let [a_on, b_on, d_on, bias_on] = [&a, &b, &c, &bias].map(|values| context.upload(values));
    let (a_on, b_on, d_on, bias_on) = (a_on?, b_on?, d_on?, bias_on?);
    let operand = |buffer: &vlct_cuda::context::Buffer, stride: usize, transposed: bool| Operand {
        address: buffer.address(),
        stride,
        transposed,
        element: Element::F32,
    };
    let d = operand(&d_on, n, false);
    let product = Matmul {
        m,
        n,
        k,
        alpha: 2.0,
        a: operand(&a_on, k, false),
        b: operand(&b_on, k, true),
        beta,
        c: d,
        d,
        epilogue: if epilogue {
            Epilogue::Bias {
                bias: bias_on.address(),
            }
        } else {
            Epilogue::None
        },
    };
    context.driver().matmul(&product, context.stream())?;
    let mut got = vec![0f32; m * n];
    context.download(&d_on, &mut got)?;
    let want = |r: usize, j: usize| {
        let sum: f32 = (0..k).map(|l| a[r * k + l] * b[j * k + l]).sum();
        2.0 * sum + beta * c[r * n + j] + if epilogue { bias[j] } else { 0.0 }
    };
    let want: Vec<f32> = (0..m * n).map(|i| want(i / n, i % n)).collect();
    Ok(equal("product", got, want))
}

fn products_are_computed() -> Outcome {
    let context = context()?;
    for m in [1, 3, 300] {
        for (epilogue, beta) in [(false, 0.0), (false, 1.0), (true, 0.0), (true, 3.0)] {
            product(&context, m, epilogue, beta).map_err(text)??;
        }
    }
    // An epilogue that cuBLASLt does not have needs a kernel, and the simulation has no other kernel.
    let buffer = context.zeros(1024).map_err(text)?;
    let operand = buffer.matrix(4, 4, Element::F32).operand(false);
    let gelu = Matmul {
        m: 4,
        n: 4,
        k: 4,
        alpha: 1.0,
        a: operand,
        b: operand,
        beta: 0.0,
        c: operand,
        d: operand,
        epilogue: Epilogue::Gelu { bias: None, aux: None },
    };
    let error = context.driver().matmul(&gelu, context.stream()).map_err(text);
    equal(
        "gelu",
        error.is_err_and(|error| error.starts_with("launch of epilogue_f32: ")),
        true,
    )?;
    let outside = Matmul { m: 1000, ..gelu };
    let error = context.driver().matmul(&outside, context.stream());
    equal("outside", matches!(error, Err(Error::InvalidRange { .. })), true)
}

fn algorithms_are_queried_once() -> Outcome {
    let context = context()?;
    let mut queries = Vec::new();
    // The bucket's algorithm does not fit 300 rows in the simulation, which costs a second query, once.
    for m in [1000, 1024, 769, 1000, 300, 300, 400, 2, 2] {
        product(&context, m, true, 0.0).map_err(text)??;
        queries.push(counts()?[7]);
    }
    equal("queries", queries, vec![1, 1, 1, 1, 3, 3, 3, 4, 4])
}

fn memory_is_limited() -> Outcome {
    let cuda = open()?;
    let first = cuda.allocate(4000).map_err(text)?;
    let info = MemoryInfo {
        free: 6000,
        total: 10000,
    };
    equal("memory", cuda.memory_info().map_err(text)?, info)?;
    let error = Error::OutOfMemory {
        requested: 7000,
        free: 6000,
        total: 10000,
    };
    equal("too much", cuda.allocate(7000), Err(error))?;
    cuda.free(first).map_err(text)?;
    equal("freed twice", cuda.free(first).is_err(), true)?;
    cuda.allocate(7000).map(|_| ()).map_err(text)
}

fn everything_is_freed() -> Outcome {
    let context = context()?;
    product(&context, 3, true, 0.0).map_err(text)??;
    let mut buffer = context.zeros(40).map_err(text)?;
    elementwise::fill(&context, 1.5, buffer.matrix_mut(2, 5, Element::F32)).map_err(text)?;
    drop((buffer, context));
    let cuda = open()?;
    cuda.create_stream().map_err(text)?;
    cuda.create_event().map_err(text)?;
    cuda.allocate(100).map_err(text)?;
    let before = counts()?;
    equal("before", before[..7].iter().sum::<i32>() > 4, true)?;
    drop(cuda);
    equal("what exists", counts()?[..7].to_vec(), vec![0; 7])
}

fn nccl_is_described() -> Outcome {
    let line = nccl().map_err(text)?;
    equal(
        "NCCL",
        line.starts_with("NCCL 2.30.7: ") && line.ends_with("(VLCT_CUDA)"),
        true,
    )
}

/// A rank with a stream, and three values in the memory of its device.
struct Rank {
    cuda: Arc<Cuda>,
    nccl: Nccl,
    stream: Stream,
    values: Address,
}

impl Rank {
    fn new(rank: usize, ranks: usize) -> Result<Self, String> {
        let cuda = Arc::new(open()?);
        let id = unique_id().map_err(text)?;
        let nccl = cuda.communicator(&id, rank, ranks).map_err(text)?;
        equal("rank", (nccl.rank(), nccl.ranks()), (rank, ranks))?;
        let stream = cuda.create_stream().map_err(text)?;
        let values = cuda.allocate(12).map_err(text)?;
        Ok(Self {
            cuda,
            nccl,
            stream,
            values,
        })
    }

    fn write(&self, values: [f32; 3]) -> Outcome {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.cuda.copy_to_device(self.values, &bytes, self.stream).map_err(text)
    }

    fn read(&self) -> Result<Vec<f32>, String> {
        let mut bytes = [0; 12];
        self.cuda
            .copy_to_host(&mut bytes, self.values, self.stream)
            .map_err(text)?;
        let values = bytes.as_chunks::<4>().0.iter();
        Ok(values.map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }
}

fn ranks_exchange_values() -> Outcome {
    let ranks = [Rank::new(0, 2)?, Rank::new(1, 2)?];
    let [first, second] = &ranks;
    first.write([1.0, 2.0, 3.0])?;
    second.write([10.0, 20.0, 30.0])?;
    for rank in &ranks {
        rank.nccl.all_reduce(rank.values, 3, rank.stream).map_err(text)?;
    }
    for rank in &ranks {
        equal("sum", rank.read()?, vec![11.0, 22.0, 33.0])?;
    }
    second.write([-1.0, -2.0, -3.0])?;
    // Work of several calls is executed in order.
    for rank in &ranks {
        rank.nccl.broadcast(rank.values, 2, rank.stream).map_err(text)?;
        rank.nccl
            .all_reduce(rank.values.offset(4), 1, rank.stream)
            .map_err(text)?;
    }
    equal("rank 1", second.read()?, vec![11.0, 44.0, -3.0])?;
    equal("rank 0", first.read()?, vec![11.0, 44.0, 33.0])?;
    equal(
        "errors",
        ranks.each_ref().map(|rank| rank.nccl.check()),
        [Ok(()), Ok(())],
    )?;
    equal("communicators", counts()?[8], 2)?;
    drop(ranks);
    equal("what exists", counts()?[8] + counts()?[..7].iter().sum::<i32>(), 0)
}

fn failures_of_ranks_are_errors() -> Outcome {
    let ranks = [Rank::new(0, 2)?, Rank::new(1, 2)?];
    let [first, second] = &ranks;
    first.write([1.0, 2.0, 3.0])?;
    let outside = first.nccl.all_reduce(first.values, 4, first.stream);
    equal(
        "range",
        matches!(outside, Err(Error::InvalidRange { bytes: 16, .. })),
        true,
    )?;
    let missing = first.nccl.all_reduce(first.values, 3, Stream(1));
    equal("stream", missing.is_err(), true)?;
    equal(
        "rank",
        first.cuda.communicator(&unique_id().map_err(text)?, 2, 2).is_err(),
        true,
    )?;
    // The other rank does something else.
    first.nccl.all_reduce(first.values, 3, first.stream).map_err(text)?;
    let other = second.nccl.all_reduce(second.values, 2, second.stream).map_err(text);
    equal(
        "message",
        other,
        Err("ncclAllReduce: simulated error (first line second line)".into()),
    )?;
    // The other rank does not come.
    first.cuda.synchronize(first.stream).map_err(text)?;
    let failed = |result: Result<(), Error>| result.err().map(text).unwrap_or_default();
    equal(
        "asynchronous",
        failed(first.nccl.check()).starts_with("ncclCommGetAsyncError: "),
        true,
    )?;
    first.nccl.abort();
    first.nccl.abort();
    let aborted = "the communicator was aborted";
    equal("check", failed(first.nccl.check()).ends_with(aborted), true)?;
    let later = first.nccl.broadcast(first.values, 3, first.stream);
    equal("broadcast", failed(later).ends_with(aborted), true)?;
    equal("communicators", counts()?[8], 1)
}
