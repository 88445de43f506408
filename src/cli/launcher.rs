//! The run shard of a process that torchrun, Slurm, Open MPI or Kubernetes has started, from its environment.

use crate::error::{Error, Result};
use crate::report::RunShard;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub shard: RunShard,
    /// The launcher and its variables.
    pub source: &'static str,
    /// Its number among the processes on its machine, counted from 0.
    pub local_rank: Option<usize>,
}

/// A launcher that numbers processes from 0.
struct Launcher {
    source: &'static str,
    rank: &'static str,
    count: &'static str,
    local_rank: &'static str,
    /// A variable that is there only where the process is one of several of the same kind.
    only_with: Option<&'static str>,
}

const LAUNCHERS: [Launcher; 2] = [
    Launcher {
        source: "torchrun (RANK, WORLD_SIZE)",
        rank: "RANK",
        count: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        only_with: None,
    },
    Launcher {
        source: "Slurm (SLURM_PROCID, SLURM_NTASKS)",
        rank: "SLURM_PROCID",
        count: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        // A batch script has the others as well, though `srun` alone starts all tasks.
        only_with: Some("SLURM_STEP_ID"),
    },
];

const OPEN_MPI: Launcher = Launcher {
    source: "Open MPI (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE)",
    rank: "OMPI_COMM_WORLD_RANK",
    count: "OMPI_COMM_WORLD_SIZE",
    local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
    only_with: None,
};

/// Reads variables; the first launcher that started several processes decides.
pub(super) fn place(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Place>> {
    for launcher in &LAUNCHERS {
        if let Some(place) = launcher.place(variable)? {
            return Ok(Some(place));
        }
    }
    if let Some(place) = slurm_array(variable)? {
        return Ok(Some(place));
    }
    if let Some(place) = OPEN_MPI.place(variable)? {
        return Ok(Some(place));
    }
    kubernetes(variable)
}

impl Launcher {
    fn place(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Place>> {
        if self.only_with.is_some_and(|name| variable(name).is_none()) {
            return Ok(None);
        }
        let (Some(rank), Some(count)) = (number(variable, self.rank)?, number(variable, self.count)?) else {
            return Ok(None);
        };
        let local_rank = number(variable, self.local_rank)?;
        Ok(several(rank, count, self.source)?.map(|place| Place { local_rank, ..place }))
    }
}

/// `--array=A-B:STEP`.
fn slurm_array(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Place>> {
    let of_array = |name: &str| number(variable, &format!("SLURM_ARRAY_TASK_{name}"));
    let (Some(id), Some(count)) = (of_array("ID")?, of_array("COUNT")?) else { return Ok(None) };
    let (first, step) = (of_array("MIN")?.unwrap_or(0), of_array("STEP")?.unwrap_or(1).max(1));
    let behind = id.checked_sub(first);
    let rank = behind.ok_or_else(|| Error::usage("SLURM_ARRAY_TASK_ID is less than SLURM_ARRAY_TASK_MIN"))? / step;
    several(rank, count, "Slurm array (SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_COUNT)")
}

/// An indexed Job, whose number of completions Kubernetes does not pass on.
fn kubernetes(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Place>> {
    let Some(rank) = number(variable, "JOB_COMPLETION_INDEX")? else { return Ok(None) };
    let Some(count) = number(variable, "KINTSUGI_SHARDS")? else {
        return Err(Error::usage(
            "JOB_COMPLETION_INDEX shows that this is one of several processes, but not of how many: set KINTSUGI_SHARDS to the \
             Job's completions, or give --shard 1/1 to evaluate everything here",
        ));
    };
    several(rank, count, "Kubernetes (JOB_COMPLETION_INDEX, KINTSUGI_SHARDS)")
}

/// One of several processes; none where there is only one.
fn several(rank: usize, count: usize, source: &'static str) -> Result<Option<Place>> {
    if rank >= count {
        return Err(Error::usage(format!(
            "{source}: number {rank} of {count}, counted from 0; --shard I/N overrides it"
        )));
    }
    let place = Place { shard: RunShard { index: rank + 1, count }, source, local_rank: None };
    Ok(Some(place).filter(|_| count > 1))
}

fn number(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<Option<usize>> {
    let parse = |text: String| {
        text.parse().map_err(|_| Error::usage(format!("{name}: `{text}` is not a number; --shard overrides it")))
    };
    variable(name).map(parse).transpose()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// `RANK=1 WORLD_SIZE=4`.
    fn place_in(environment: &str) -> Result<Option<Place>> {
        let pairs: Vec<_> = environment.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect();
        place(&|name| Some(pairs.iter().find(|(known, _)| *known == name)?.1.to_owned()))
    }

    #[test]
    fn every_launcher_is_understood_in_its_turn() {
        let torchrun = "RANK=1 WORLD_SIZE=4 LOCAL_RANK=1";
        let srun = "SLURM_PROCID=2 SLURM_NTASKS=3 SLURM_LOCALID=0 SLURM_STEP_ID=0";
        let array = "SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_MIN=3 SLURM_ARRAY_TASK_STEP=2 SLURM_ARRAY_TASK_COUNT=5";
        let mpi = "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=0";
        let kubernetes = "JOB_COMPLETION_INDEX=5 KINTSUGI_SHARDS=6";
        let all = [torchrun, srun, array, mpi, kubernetes];
        let expected = [(2, 4, Some(1)), (3, 3, Some(0)), (3, 5, None), (1, 2, Some(0)), (6, 6, None)];
        for (at, (index, count, local_rank)) in expected.into_iter().enumerate() {
            // Later ones do not matter.
            let found = place_in(&all[at..].join(" ")).unwrap().unwrap();
            assert_eq!((found.shard, found.local_rank), (RunShard { index, count }, local_rank), "{}", found.source);
        }
    }

    #[test]
    fn one_process_alone_has_everything() {
        let batch_script = "SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0";
        let in_one_task = "SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_STEP_ID=0";
        for environment in ["", "RANK=0 WORLD_SIZE=1", batch_script, in_one_task, "RANK=0", "SLURM_ARRAY_TASK_ID=4"] {
            assert_eq!(place_in(environment).unwrap(), None, "{environment}");
        }
        let array_of_single_tasks = format!("{in_one_task} SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_COUNT=2");
        assert_eq!(place_in(&array_of_single_tasks).unwrap().unwrap().shard, RunShard { index: 2, count: 2 });
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for (environment, words) in [
            ("RANK=4 WORLD_SIZE=4", "number 4 of 4"),
            ("RANK=x WORLD_SIZE=4", "RANK: `x` is not a number"),
            ("SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_MIN=2 SLURM_ARRAY_TASK_COUNT=3", "less than SLURM_ARRAY_TASK_MIN"),
            ("JOB_COMPLETION_INDEX=0", "set KINTSUGI_SHARDS"),
        ] {
            let error = place_in(environment).unwrap_err().to_string();
            assert!(error.contains(words), "{environment}: {error}");
        }
    }
}
