//! The rank of a process, as the program that started it says in environment variables.
//!
//! | started by | variables |
//! |---|---|
//! | torchrun, accelerate | `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT` |
//! | srun | `SLURM_STEP_ID`, `SLURM_PROCID`, `SLURM_NTASKS`, `SLURM_LOCALID`, `SLURM_NODEID`, `SLURM_TASKS_PER_NODE`, `SLURM_NODELIST` |
//! | mpirun of Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK`, `_LOCAL_SIZE` |
//! | mpirun of MPICH and Intel | `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID`, `MPI_LOCALNRANKS` |
//! | the user, once on each machine, as with the original | `NODE_RANK`, `MASTER_ADDR`, `MASTER_PORT` |
//!
//! The first row whose variables are set counts: torchrun may itself be started by srun or mpirun. A rank that this program starts has the
//! variable [`VARIABLE`] with its whole [`Launch`], which counts before all others.

use crate::error::ConfigError;

/// The variable that a process passes to the ranks that it starts: the numbers of [`Launch`] in their order, and the address.
pub const VARIABLE: &str = "VLCT_LAUNCH";

/// The port at which rank 0 listens if `MASTER_PORT` is not set: PyTorch's default.
const DEFAULT_PORT: u16 = 29500;

/// Ports of Slurm jobs, if `MASTER_PORT` is not set: the first one plus the last four digits of the job's number, as in Lightning, so that
/// jobs on one machine have different ports.
const FIRST_SLURM_PORT: u16 = 15000;

/// The place of a process among the ranks of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Number of the rank, from 0.
    pub rank: usize,
    /// Number of ranks.
    pub ranks: usize,
    /// Number of the rank among those of its machine, from 0: the index of its device.
    pub local_rank: usize,
    /// Number of ranks on the machine.
    pub local_ranks: usize,
    /// Number of the machine, from 0.
    pub node: usize,
    /// Number of machines.
    pub nodes: usize,
    /// `host:port` at which rank 0 listens; `None` for a single rank. Port 0 means any free port, which rank 0 tells the ranks that it
    /// starts.
    pub address: Option<String>,
    /// Whether this process has to start the other ranks of its machine.
    pub starts_local_ranks: bool,
}

impl Launch {
    /// Reads the place of this process. `variable` returns the value of an environment variable; `devices` and `nodes` are the keys `num_gpus`,
    /// as a number of devices, and `num_nodes`, of which 1 means that the user has not set them.
    ///
    /// # Errors
    /// Returns a contradiction if a variable is missing, is no number, or contradicts another one or the keys.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>, devices: usize, nodes: usize) -> Result<Self, ConfigError> {
        let environment = Environment { variable };
        if let Some(text) = environment.text(VARIABLE) {
            return match Self::parse(&text) {
                Some(launch) => Ok(launch),
                None => contradiction(format!(
                    "the environment variable {VARIABLE}={text:?} is not from this program: unset it"
                )),
            };
        }
        let started = match environment.torchrun()? {
            Some(launch) => Some(launch),
            None => environment.slurm()?,
        };
        let started = match started {
            Some(launch) => Some(launch),
            None => environment.mpi()?,
        };
        match started {
            Some(launch) => launch.checked(devices, nodes),
            None => environment.by_keys(devices.max(1), nodes.max(1)),
        }
    }

    /// Returns the ranks that this process has to start.
    pub fn local_others(&self) -> Vec<Self> {
        let started = match self.starts_local_ranks {
            true => 1..self.local_ranks,
            false => 0..0,
        };
        let other = |local_rank| Self {
            rank: self.rank + local_rank,
            local_rank,
            starts_local_ranks: false,
            ..self.clone()
        };
        started.map(other).collect()
    }

    /// Returns the value of [`VARIABLE`] for a rank that this program starts.
    pub fn to_variable(&self) -> String {
        let numbers = [
            self.rank,
            self.ranks,
            self.local_rank,
            self.local_ranks,
            self.node,
            self.nodes,
        ];
        let mut words: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        words.extend(self.address.clone());
        words.join(",")
    }

    /// Reads the text of [`Self::to_variable`].
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(7, ',');
        let mut number = || words.next()?.parse::<usize>().ok();
        let launch = Self {
            rank: number()?,
            ranks: number()?,
            local_rank: number()?,
            local_ranks: number()?,
            node: number()?,
            nodes: number()?,
            address: None,
            starts_local_ranks: false,
        };
        let address = Some(words.next()?.to_string());
        let is_valid = launch.rank < launch.ranks && launch.local_rank < launch.local_ranks;
        is_valid.then_some(Self { address, ..launch })
    }

    /// Checks that the numbers agree with each other and with the keys.
    fn checked(self, devices: usize, nodes: usize) -> Result<Self, ConfigError> {
        let Self {
            rank,
            ranks,
            local_rank,
            local_ranks,
            ..
        } = self;
        if rank >= ranks {
            return contradiction(format!(
                "this process is started as rank {rank} of {ranks}: the first rank is 0"
            ));
        }
        if local_rank >= local_ranks || local_ranks > ranks || self.node >= self.nodes {
            return contradiction(format!(
                "this process is started as rank {local_rank} of {local_ranks} on machine {} of {}, and rank {rank} of {ranks} in all, which \
                 contradict each other",
                self.node, self.nodes
            ));
        }
        if devices > 1 && devices != local_ranks {
            return contradiction(format!(
                "num_gpus={devices}, but {local_ranks} ranks are started on this machine: start one rank for each device"
            ));
        }
        if nodes > 1 && nodes != self.nodes {
            return contradiction(format!(
                "num_nodes={nodes}, but ranks are started on {} machines: leave num_nodes out",
                self.nodes
            ));
        }
        Ok(self)
    }
}

fn contradiction<T>(message: String) -> Result<T, ConfigError> {
    Err(ConfigError::Contradiction(message))
}

/// The environment variables of a process.
struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Environment<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// Returns a number, `None` if the variable is not set.
    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, ConfigError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => contradiction(format!("the environment variable {name}={text:?} is not a number")),
        }
    }

    /// Returns the number in a variable that must be set because `other` is.
    fn needed(&self, name: &str, other: &str) -> Result<usize, ConfigError> {
        match self.number(name)? {
            Some(number) => Ok(number),
            None => contradiction(format!(
                "the environment variable {other} is set, but {name} is not: set both, or none for a single process"
            )),
        }
    }

    /// Returns `host:port` of `MASTER_ADDR` and `MASTER_PORT`, plus `offset`. Without them, rank 0 must be on this machine.
    fn master(&self, nodes: usize, offset: u16) -> Result<String, ConfigError> {
        let host = match self.text("MASTER_ADDR") {
            Some(host) => host,
            None if nodes == 1 => "127.0.0.1".into(),
            None => {
                return contradiction(format!(
                    "the run has {nodes} machines: set the environment variable MASTER_ADDR to the address of the first one"
                ));
            }
        };
        let port: u16 = self.number("MASTER_PORT")?.unwrap_or(DEFAULT_PORT);
        match port.checked_add(offset) {
            Some(port) => Ok(format!("{host}:{port}")),
            None => contradiction(format!(
                "MASTER_PORT={port} is the last port, and the next one is needed"
            )),
        }
    }

    fn torchrun(&self) -> Result<Option<Launch>, ConfigError> {
        let (rank, ranks) = match (self.number("RANK")?, self.number("WORLD_SIZE")?) {
            (None, None) => return Ok(None),
            (Some(rank), Some(ranks)) => (rank, ranks),
            (Some(_), None) => (0, self.needed("WORLD_SIZE", "RANK")?),
            (None, Some(_)) => (self.needed("RANK", "WORLD_SIZE")?, 0),
        };
        let [local_rank, local_ranks] = match ranks {
            1 => [0, 1],
            _ => [
                self.needed("LOCAL_RANK", "RANK")?,
                self.needed("LOCAL_WORLD_SIZE", "RANK")?,
            ],
        };
        let nodes = match self.number("GROUP_WORLD_SIZE")? {
            Some(nodes) => nodes,
            None => ranks.div_ceil(local_ranks.max(1)),
        };
        let node = self.number("GROUP_RANK")?.unwrap_or(rank / local_ranks.max(1));
        Ok(Some(Launch {
            rank,
            ranks,
            local_rank,
            local_ranks,
            node,
            nodes,
            // The agent of torchrun already listens on MASTER_PORT.
            address: (ranks > 1).then(|| self.master(nodes, 1)).transpose()?,
            starts_local_ranks: false,
        }))
    }

    /// Reads the variables of srun. A batch script has most of them too, but no step.
    fn slurm(&self) -> Result<Option<Launch>, ConfigError> {
        if self.text("SLURM_STEP_ID").is_none() {
            return Ok(None);
        }
        let Some(rank) = self.number("SLURM_PROCID")? else {
            return Ok(None);
        };
        let needed = |name| self.needed(name, "SLURM_PROCID");
        let (ranks, local_rank, node) = (
            needed("SLURM_NTASKS")?,
            needed("SLURM_LOCALID")?,
            needed("SLURM_NODEID")?,
        );
        let per_node = match self.text("SLURM_STEP_TASKS_PER_NODE") {
            Some(text) => text,
            None => self.text("SLURM_TASKS_PER_NODE").unwrap_or_else(|| ranks.to_string()),
        };
        let Some(per_node) = tasks_per_node(&per_node) else {
            return contradiction(format!(
                "SLURM_TASKS_PER_NODE={per_node:?} is not a list of numbers of tasks"
            ));
        };
        let Some(local_ranks) = per_node.get(node).copied() else {
            return contradiction(format!(
                "SLURM_NODEID={node}, but SLURM_TASKS_PER_NODE lists {} machines",
                per_node.len()
            ));
        };
        Ok(Some(Launch {
            rank,
            ranks,
            local_rank,
            local_ranks,
            node,
            nodes: per_node.len(),
            address: (ranks > 1).then(|| self.slurm_address()).transpose()?,
            starts_local_ranks: false,
        }))
    }

    fn slurm_address(&self) -> Result<String, ConfigError> {
        let lists = ["SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"];
        let list = lists.iter().find_map(|name| self.text(name));
        let host = match (self.text("MASTER_ADDR"), &list) {
            (Some(host), _) => Some(host),
            (None, Some(list)) => first_host(list),
            (None, None) => None,
        };
        let Some(host) = host else {
            return contradiction(format!(
                "SLURM_NODELIST={:?} names no machine: set MASTER_ADDR to the address of the first one",
                list.unwrap_or_default()
            ));
        };
        let job: u64 = self.number("SLURM_JOB_ID")?.unwrap_or_default();
        let port = self.number("MASTER_PORT")?;
        let port = port.unwrap_or(FIRST_SLURM_PORT + (job % 10_000) as u16);
        Ok(format!("{host}:{port}"))
    }

    /// Reads the variables of Open MPI, or those of MPICH's process manager.
    fn mpi(&self) -> Result<Option<Launch>, ConfigError> {
        let open_mpi = [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
            "OMPI_COMM_WORLD_LOCAL_SIZE",
        ];
        let pmi = ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"];
        for [rank_name, ranks, local_rank, local_ranks] in [open_mpi, pmi] {
            let Some(rank) = self.number(rank_name)? else { continue };
            let needed = |name| self.needed(name, rank_name);
            let (ranks, local_rank, local_ranks) = (needed(ranks)?, needed(local_rank)?, needed(local_ranks)?);
            let nodes = ranks.div_ceil(local_ranks.max(1));
            return Ok(Some(Launch {
                rank,
                ranks,
                local_rank,
                local_ranks,
                node: rank / local_ranks.max(1),
                nodes,
                address: (ranks > 1).then(|| self.master(nodes, 0)).transpose()?,
                starts_local_ranks: false,
            }));
        }
        Ok(None)
    }

    /// Returns the first rank of this machine, of a run that is started once on each machine.
    fn by_keys(&self, devices: usize, nodes: usize) -> Result<Launch, ConfigError> {
        let node = match (nodes, self.number("NODE_RANK")?) {
            (1, None | Some(0)) => 0,
            (_, Some(node)) if node < nodes => node,
            (_, Some(node)) => {
                return contradiction(format!(
                    "NODE_RANK={node}, but num_nodes={nodes}: the machines have the numbers 0 to {}",
                    nodes - 1
                ));
            }
            (_, None) => {
                return contradiction(format!(
                    "num_nodes={nodes}: set the environment variable NODE_RANK to the number of this machine, 0 to {}",
                    nodes - 1
                ));
            }
        };
        let ranks = devices.saturating_mul(nodes);
        // Only this process has to know the port.
        let has_any_port = nodes == 1 && self.text("MASTER_PORT").is_none();
        let address = match ranks {
            0 | 1 => None,
            _ if has_any_port => Some("127.0.0.1:0".into()),
            _ => Some(self.master(nodes, 0)?),
        };
        Ok(Launch {
            rank: node.saturating_mul(devices),
            ranks,
            local_rank: 0,
            local_ranks: devices,
            node,
            nodes,
            address,
            starts_local_ranks: devices > 1,
        })
    }
}

/// Returns the number of tasks on each machine of Slurm's list, such as `4(x2),3`: machines with 4, 4 and 3 tasks. Returns `None` if it is
/// not such a list, or has more than 2²⁰ machines.
fn tasks_per_node(list: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (tasks, machines) = match part.split_once("(x") {
            Some((tasks, machines)) => (tasks, machines.strip_suffix(')')?.parse().ok()?),
            None => (part, 1usize),
        };
        if machines > 1 << 20 {
            return None;
        }
        all.extend(std::iter::repeat_n(tasks.trim().parse::<usize>().ok()?, machines));
    }
    Some(all)
}

/// Returns the first machine of Slurm's list, such as `gpu[03-05,9],login`: `gpu03`. Returns `None` if it has none.
fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list.trim();
    loop {
        let end = rest.find(['[', ',']).unwrap_or(rest.len());
        host.push_str(&rest[..end]);
        match rest[end..].strip_prefix('[') {
            Some(ranges) => {
                let (ranges, after) = ranges.split_once(']')?;
                host.push_str(ranges.split(['-', ',']).next()?);
                rest = after;
            }
            None => break,
        }
    }
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads variables given as `NAME=value`, separated by spaces.
    fn read(variables: &str, devices: usize, nodes: usize) -> Result<Launch, String> {
        let variable = |name: &str| {
            let mut pairs = variables.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        };
        Launch::read(&variable, devices, nodes).map_err(|error| error.to_string())
    }

    fn launch([rank, ranks, local_rank, local_ranks, node, nodes]: [usize; 6], address: &str) -> Launch {
        Launch {
            rank,
            ranks,
            local_rank,
            local_ranks,
            node,
            nodes,
            address: (!address.is_empty()).then(|| address.into()),
            starts_local_ranks: false,
        }
    }

    #[test]
    fn a_process_without_variables_is_the_only_rank() {
        assert_eq!(
            read("MASTER_PORT=7 PATH=/bin", 1, 1),
            Ok(launch([0, 1, 0, 1, 0, 1], ""))
        );
        // A batch script of Slurm that starts the program without srun.
        let batch = "SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_LOCALID=0 SLURM_NODEID=0";
        assert_eq!(read(batch, 0, 1), Ok(launch([0, 1, 0, 1, 0, 1], "")));
    }

    #[test]
    fn torchrun_leaves_its_own_port_out() {
        let variables = "RANK=9 WORLD_SIZE=16 LOCAL_RANK=1 LOCAL_WORLD_SIZE=8 MASTER_ADDR=a.b MASTER_PORT=29400";
        let expected = launch([9, 16, 1, 8, 1, 2], "a.b:29401");
        assert_eq!(read(variables, 1, 1), Ok(expected.clone()));
        // torchrun that srun has started once on each machine.
        let in_slurm = format!("{variables} SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=2 GROUP_RANK=1");
        assert_eq!(read(&in_slurm, 8, 2), Ok(expected));
        assert_eq!(read("RANK=0 WORLD_SIZE=1", 1, 1), Ok(launch([0, 1, 0, 1, 0, 1], "")));
    }

    #[test]
    fn slurm_names_the_machine_of_rank_0_in_brackets() {
        let variables = "SLURM_STEP_ID=0 SLURM_PROCID=5 SLURM_NTASKS=6 SLURM_LOCALID=1 SLURM_NODEID=1 \
                         SLURM_TASKS_PER_NODE=4,2 SLURM_NODELIST=gpu[07-08] SLURM_JOB_ID=123456";
        assert_eq!(read(variables, 1, 1), Ok(launch([5, 6, 1, 2, 1, 2], "gpu07:18456")));
        let variables = format!("{variables} MASTER_PORT=4000");
        assert_eq!(read(&variables, 1, 1).unwrap().address.as_deref(), Some("gpu07:4000"));
        let hosts = ["n1,n2", "n[1-3]", "n[01,05-07]x[2-3]-ib,m", "lone", "r[3]n[10-11]"].map(first_host);
        assert_eq!(
            hosts.map(Option::unwrap),
            ["n1", "n1", "n01x2-ib", "lone", "r3n10"].map(String::from)
        );
        assert_eq!(["", "n[1", ",b"].map(first_host), [None, None, None]);
        assert_eq!(tasks_per_node("4(x2),3"), Some(vec![4, 4, 3]));
        assert_eq!(
            ["", "4(x", "4(x9999999)", "a"].map(tasks_per_node),
            [None, None, None, None]
        );
    }

    #[test]
    fn mpi_on_one_machine_needs_no_address() {
        let open_mpi =
            "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=3 OMPI_COMM_WORLD_LOCAL_SIZE=4";
        assert_eq!(read(open_mpi, 4, 1), Ok(launch([3, 4, 3, 4, 0, 1], "127.0.0.1:29500")));
        let pmi = "PMI_RANK=3 PMI_SIZE=4 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2";
        let message = read(pmi, 1, 1).unwrap_err();
        assert!(
            message.contains("set the environment variable MASTER_ADDR"),
            "{message}"
        );
        let pmi = format!("{pmi} MASTER_ADDR=10.0.0.7 MASTER_PORT=5000");
        assert_eq!(read(&pmi, 1, 1), Ok(launch([3, 4, 1, 2, 1, 2], "10.0.0.7:5000")));
    }

    #[test]
    fn the_keys_of_the_original_start_the_ranks_of_a_machine() {
        let with = |launch| Launch {
            starts_local_ranks: true,
            ..launch
        };
        assert_eq!(read("", 8, 1), Ok(with(launch([0, 8, 0, 8, 0, 1], "127.0.0.1:0"))));
        let port = "MASTER_PORT=1234";
        assert_eq!(read(port, 8, 1), Ok(with(launch([0, 8, 0, 8, 0, 1], "127.0.0.1:1234"))));
        let second = "NODE_RANK=1 MASTER_ADDR=first MASTER_PORT=1234";
        assert_eq!(read(second, 8, 2), Ok(with(launch([8, 16, 0, 8, 1, 2], "first:1234"))));
        assert_eq!(read(second, 1, 2), Ok(launch([1, 2, 0, 1, 1, 2], "first:1234")));
    }

    #[test]
    fn a_process_starts_the_other_ranks_of_its_machine_with_their_numbers() {
        let second = read("NODE_RANK=1 MASTER_ADDR=first MASTER_PORT=1234", 3, 2).unwrap();
        let others = second.local_others();
        let expected = [[4, 6, 1, 3, 1, 2], [5, 6, 2, 3, 1, 2]].map(|numbers| launch(numbers, "first:1234"));
        assert_eq!(others, expected);
        for other in &others {
            assert!(other.local_others().is_empty());
            // The variables of the process that started it are set, too.
            let variables = format!("{VARIABLE}={} NODE_RANK=1 RANK=7", other.to_variable());
            assert_eq!(read(&variables, 3, 2).as_ref(), Ok(other));
        }
        for damaged in ["x", "1,2,3", "2,2,0,1,0,1,a:1", "0,1,0,1,0,1"] {
            let message = read(&format!("{VARIABLE}={damaged}"), 1, 1).unwrap_err();
            assert!(message.contains("unset it"), "{message}");
        }
    }

    #[test]
    fn contradictions_are_one_clear_line() {
        let torchrun = "MASTER_ADDR=a LOCAL_RANK=0 LOCAL_WORLD_SIZE=2";
        for (variables, devices, nodes, part) in [
            ("RANK=1", 1, 1, "RANK is set, but WORLD_SIZE is not"),
            ("WORLD_SIZE=2", 1, 1, "WORLD_SIZE is set, but RANK is not"),
            ("RANK=x WORLD_SIZE=2", 1, 1, "RANK=\"x\" is not a number"),
            ("RANK=0 WORLD_SIZE=2", 1, 1, "LOCAL_RANK is not"),
            (&format!("RANK=2 WORLD_SIZE=2 {torchrun}"), 1, 1, "rank 2 of 2"),
            (&format!("RANK=0 WORLD_SIZE=0 {torchrun}"), 1, 1, "rank 0 of 0"),
            (
                &format!("RANK=0 WORLD_SIZE=2 {torchrun}"),
                4,
                1,
                "num_gpus=4, but 2 ranks",
            ),
            (
                &format!("RANK=0 WORLD_SIZE=2 {torchrun}"),
                1,
                3,
                "num_nodes=3, but ranks are started on 1 machines",
            ),
            (
                &format!("RANK=0 WORLD_SIZE=2 {torchrun} MASTER_PORT=65535"),
                1,
                1,
                "is the last port",
            ),
            (
                "RANK=1 WORLD_SIZE=4 LOCAL_RANK=3 LOCAL_WORLD_SIZE=2 MASTER_ADDR=a",
                1,
                1,
                "contradict each other",
            ),
            ("SLURM_STEP_ID=0 SLURM_PROCID=0", 1, 1, "SLURM_NTASKS is not"),
            ("", 1, 2, "set the environment variable NODE_RANK"),
            ("NODE_RANK=2", 1, 2, "the machines have the numbers 0 to 1"),
            ("NODE_RANK=1", 1, 2, "MASTER_ADDR"),
            ("NODE_RANK=1", 4, 1, "NODE_RANK=1, but num_nodes=1"),
        ] {
            let message = read(variables, devices, nodes).unwrap_err();
            assert!(
                message.contains(part) && !message.contains('\n'),
                "{variables}: {message}"
            );
        }
    }

    proptest! {
        #[test]
        fn lists_of_slurm_never_panic(list in "[a-z0-9,()x\\[\\]-]{0,24}") {
            let _ = (first_host(&list), tasks_per_node(&list));
        }
    }
}
