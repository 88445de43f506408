//! The limits of a gate, from the command line or from a file like `evals/gates.yml`.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::Path;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::amounts::{Nats, Percent, Points};
use super::error::LimitsError;
use super::outcomes::Criterion;
use crate::files;

/// The limits where none are given.
const BUILT_IN: &str = include_str!("../../evals/gates.yml");

const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a verdict does to the exit code, from the strictest on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Beyond fails, and undecided is no pass.
    #[default]
    Critical,
    /// Beyond fails. Undecided is allowed where another critical limit of the same comparison is proven.
    AllowUndecided,
    /// Shown only.
    Advisory,
}

/// A limit, with a policy where it has its own: `1%`, or `{limit: 1%, policy: advisory}`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit<T> {
    pub amount: T,
    pub policy: Option<Policy>,
}

impl<T> From<T> for Limit<T> {
    fn from(amount: T) -> Self {
        Self { amount, policy: None }
    }
}

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LimitVisitor(PhantomData))
    }
}

struct LimitVisitor<T>(PhantomData<T>);

impl<'de, T: FromStr<Err = String>> Visitor<'de> for LimitVisitor<T> {
    type Value = Limit<T>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an amount with its unit, or `limit` and `policy`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse::<T>().map(Limit::from).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct WithPolicy {
            limit: String,
            policy: Policy,
        }
        let WithPolicy { limit, policy } = WithPolicy::deserialize(MapAccessDeserializer::new(map))?;
        let amount = limit.parse().map_err(A::Error::custom)?;
        Ok(Limit { amount, policy: Some(policy) })
    }
}

/// The limits for one model; those absent are not checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    pub max_acc_loss: Option<Limit<Points>>,
    pub max_ppl_increase: Option<Limit<Percent>>,
    pub max_kl: Option<Limit<Nats>>,
    pub min_same_top: Option<Limit<Percent>>,
    /// Whether a single passage with a different outcome fails.
    pub expect_exact: bool,
    pub skip: bool,
    /// Of the limits that have none of their own.
    pub policy: Option<Policy>,
}

/// A limit of one criterion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bound {
    /// The largest loss, in the unit of [`Criterion`].
    pub limit: f64,
    pub policy: Policy,
    /// Whether an evaluation may stop without a verdict on it, whatever the model's policy is.
    pub may_stay_undecided: bool,
}

impl Limits {
    /// These limits, with the other's where one is absent.
    fn or(self, other: Self) -> Self {
        Self {
            max_acc_loss: self.max_acc_loss.or(other.max_acc_loss),
            max_ppl_increase: self.max_ppl_increase.or(other.max_ppl_increase),
            max_kl: self.max_kl.or(other.max_kl),
            min_same_top: self.min_same_top.or(other.min_same_top),
            expect_exact: self.expect_exact || other.expect_exact,
            skip: self.skip || other.skip,
            policy: self.policy.or(other.policy),
        }
    }

    pub(crate) fn bound(&self, criterion: Criterion) -> Option<Bound> {
        let (limit, of_limit) = match criterion {
            Criterion::AccuracyLoss => self.max_acc_loss.map(|limit| (limit.amount.fraction(), limit.policy))?,
            Criterion::PerplexityIncrease => {
                self.max_ppl_increase.map(|limit| (limit.amount.fraction().ln_1p(), limit.policy))?
            }
            Criterion::KlDivergence => self.max_kl.map(|limit| (limit.amount.nats(), limit.policy))?,
            Criterion::TopTokenChange => {
                self.min_same_top.map(|limit| (1.0 - limit.amount.fraction(), limit.policy))?
            }
        };
        let may_stay_undecided = of_limit == Some(Policy::AllowUndecided);
        Some(Bound { limit, policy: policy(of_limit, self.policy), may_stay_undecided })
    }

    /// The limits of a model that goes by two names: of each kind the stricter.
    fn stricter(self, other: Self) -> Self {
        let policies = [self.policy, other.policy];
        let [own, others] = policies;
        Self {
            max_acc_loss: stricter(self.max_acc_loss, other.max_acc_loss, policies, |one, other| one <= other),
            max_ppl_increase: stricter(self.max_ppl_increase, other.max_ppl_increase, policies, |one, other| {
                one <= other
            }),
            max_kl: stricter(self.max_kl, other.max_kl, policies, |one, other| one <= other),
            min_same_top: stricter(self.min_same_top, other.min_same_top, policies, |one, other| one >= other),
            expect_exact: self.expect_exact || other.expect_exact,
            skip: self.skip && other.skip,
            policy: Some(own.unwrap_or_default().min(others.unwrap_or_default())),
        }
    }

    /// Whether anything is checked.
    #[cfg(feature = "libtorch")]
    pub(crate) fn has_any(&self) -> bool {
        self.expect_exact || Criterion::ALL.into_iter().any(|criterion| self.bound(criterion).is_some())
    }

    fn check(&self) -> Result<(), String> {
        match self.min_same_top {
            Some(limit) if limit.amount.fraction() > 1.0 => Err("min-same-top: expected at most 100%".to_owned()),
            _ => Ok(()),
        }
    }
}

/// The stricter amount with the stricter policy, of limits in models of these policies.
fn stricter<T: Copy>(
    one: Option<Limit<T>>,
    other: Option<Limit<T>>,
    of_models: [Option<Policy>; 2],
    is_stricter: impl Fn(T, T) -> bool,
) -> Option<Limit<T>> {
    let [of_one, of_other] = of_models;
    let with_policy = |limit: Limit<T>, of_model| Limit { policy: Some(policy(limit.policy, of_model)), ..limit };
    let one = one.map(|limit| with_policy(limit, of_one));
    let other = other.map(|limit| with_policy(limit, of_other));
    let (Some(first), Some(second)) = (one, other) else { return one.or(other) };
    let amount = if is_stricter(first.amount, second.amount) { first.amount } else { second.amount };
    Some(Limit { amount, policy: first.policy.min(second.policy) })
}

/// An advisory model's limits are advisory, whatever their own policy is.
fn policy(of_limit: Option<Policy>, of_model: Option<Policy>) -> Policy {
    match of_model {
        Some(Policy::Advisory) => Policy::Advisory,
        of_model => of_limit.or(of_model).unwrap_or_default(),
    }
}

/// Limits for one task.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TaskLimits {
    /// Limits for models that are not named.
    default: Limits,
    /// Limits for single models; those absent are as in `default`.
    models: BTreeMap<String, Limits>,
}

/// Limits for every model of a report.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Gates {
    /// Chance of a false verdict: of *within* for each limit, of *beyond* for all limits together.
    pub significance: f64,
    /// Limits for models that are not named.
    pub default: Limits,
    /// Limits for single models; those absent are as in `default`.
    pub models: BTreeMap<String, Limits>,
    /// Limits for single tasks; those absent are as for all tasks.
    tasks: BTreeMap<String, TaskLimits>,
}

impl Default for Gates {
    fn default() -> Self {
        Self { significance: 0.05, default: Limits::default(), models: BTreeMap::new(), tasks: BTreeMap::new() }
    }
}

impl Gates {
    pub fn read(path: &Path) -> Result<Self, LimitsError> {
        Self::parse(&Self::text(Some(path))?, &path.display().to_string())
    }

    /// The text of a file of limits, or of the built-in ones.
    pub(crate) fn text(path: Option<&Path>) -> Result<String, LimitsError> {
        Ok(match path {
            Some(path) => files::read_to_string(path, MAX_FILE_BYTES)?,
            None => BUILT_IN.to_owned(),
        })
    }

    pub fn built_in() -> Result<Self, LimitsError> {
        Self::parse(BUILT_IN, "built-in gates")
    }

    /// The same without the limits for single models.
    pub(crate) fn for_any_model(self) -> Self {
        Self { models: BTreeMap::new(), ..self }
    }

    /// Reads limits from YAML; `origin` is named in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self, LimitsError> {
        let syntax = |message: String| LimitsError::Syntax { origin: origin.to_owned(), message };
        let gates: Self = serde_saphyr::from_str(text).map_err(|error| syntax(error.to_string()))?;
        gates.all().try_for_each(Limits::check).map_err(syntax)?;
        let significance = gates.significance;
        gates.with_significance(significance, origin)
    }

    fn all(&self) -> impl Iterator<Item = &Limits> {
        let of_tasks = self.tasks.values().flat_map(|task| std::iter::once(&task.default).chain(task.models.values()));
        std::iter::once(&self.default).chain(self.models.values()).chain(of_tasks)
    }

    /// The same at another significance.
    pub fn with_significance(mut self, significance: f64, origin: &str) -> Result<Self, LimitsError> {
        if significance > 0.0 && significance < 0.5 {
            self.significance = significance;
            return Ok(self);
        }
        let message = format!("significance: expected a number between 0 and 0.5, found {significance}");
        Err(LimitsError::Syntax { origin: origin.to_owned(), message })
    }

    /// Gives these limits precedence for every model and task.
    pub fn override_with(&mut self, limits: Limits) -> Result<(), LimitsError> {
        let syntax = |message| LimitsError::Syntax { origin: "options".to_owned(), message };
        limits.check().map_err(syntax)?;
        self.default = limits.or(self.default);
        let of_tasks =
            self.tasks.values_mut().flat_map(|task| std::iter::once(&mut task.default).chain(task.models.values_mut()));
        for of_model in self.models.values_mut().chain(of_tasks) {
            *of_model = limits.or(*of_model);
        }
        Ok(())
    }

    /// The limits of a model that goes by these names: of each kind the strictest.
    pub(crate) fn of_any<'a>(&self, task: &str, names: impl Iterator<Item = &'a str>) -> Limits {
        names.map(|name| self.of(task, name)).reduce(Limits::stricter).unwrap_or_default()
    }

    /// The limits of a model in a task: those for both, then those for the model, the task, and all.
    pub fn of(&self, task: &str, model: &str) -> Limits {
        let named = |models: &BTreeMap<String, Limits>| models.get(model).copied().unwrap_or_default();
        let (of_both, of_task) =
            self.tasks.get(task).map_or_else(Default::default, |task| (named(&task.models), task.default));
        of_both.or(named(&self.models)).or(of_task).or(self.default)
    }
}
