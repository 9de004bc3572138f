"""One round of Flower's SecAgg+, unmodified: its workflow on the server, its mod on each device."""

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict, parameters_to_arrayrecord
from flwr.server import ServerConfig
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey

from benchmarks.shared.cohort import Cohort, Layers
from benchmarks.shared.meter import NOBODY, Meter
from benchmarks.shared.metered_grid import RUN_ID, MeteredGrid
from tacit.server.flower import SERVER_NODE_ID, identity

SHARES, THRESHOLD = 21, 11  # each device and its 20 neighbours hold shares; 11 of them open


def flower_round(cohort: Cohort, meter: Meter) -> list[Layers]:
    """The mean after one round, all else but shares and threshold as Flower has it by default.

    A cohort smaller than SHARES gets the complete graph. Raises RuntimeError if the round is lost.
    """
    devices = [_FlowerDevice(number, cohort, meter) for number in range(cohort.devices)]
    grid = MeteredGrid(
        cohort.devices,
        meter,
        lambda device, message: devices[device].handle(message),
        lambda device, message: device in cohort.silent and _is_vector_due(message),
    )
    strategy = _Everyone(grid)
    workflow = SecAggPlusWorkflow(min(SHARES, cohort.devices), THRESHOLD)
    context = _server_context(cohort, strategy)
    with identity(RUN_ID), meter.exchange():
        workflow(grid, context)
    if strategy.mean is None:
        raise RuntimeError("Flower lost the round")
    return [list(parameters_to_ndarrays(strategy.mean))]


class _FlowerDevice:
    """A device whose training returns the cohort's update as its new weights."""

    def __init__(self, number: int, cohort: Cohort, meter: Meter) -> None:
        self._number = number
        self._cohort = cohort
        self._meter = meter
        self._context = Context(RUN_ID, number, {}, RecordDict(), {})

    def handle(self, message: Message) -> Message:
        with self._meter.charge(self._number):
            return secaggplus_mod(message, self._context, self._train)

    def _train(self, message: Message, context: Context) -> Message:
        with self._meter.charge(NOBODY):
            parameters = ndarrays_to_parameters(self._cohort.update(self._number, 1))
            weight = self._cohort.weights[self._number]
            trained = FitRes(Status(Code.OK, ""), parameters, weight, {})
            return Message(fitres_to_recorddict(trained, keep_input=False), reply_to=message)


class _Everyone(FedAvg):
    """Asks all nodes, and keeps the mean that the workflow made: to average it again over as many
    equal replies, as FedAvg would, is no part of the protocol."""

    def __init__(self, grid: MeteredGrid) -> None:
        super().__init__()
        self._proxies = [GridClientProxy(node, grid, RUN_ID) for node in grid.nodes]
        self.mean: Parameters | None = None

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        return [(proxy, FitIns(parameters, {})) for proxy in self._proxies]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        self.mean = results[0][1].parameters
        return None, {}


def _server_context(cohort: Cohort, strategy: FedAvg) -> LegacyContext:
    state = RecordDict()
    state[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    model = ndarrays_to_parameters(cohort.model())
    state[MAIN_PARAMS_RECORD] = parameters_to_arrayrecord(model, keep_input=False)
    return LegacyContext(Context(RUN_ID, SERVER_NODE_ID, {}, state, {}), ServerConfig(1), strategy)


def _is_vector_due(message: Message) -> bool:
    record = message.content[RECORD_KEY_CONFIGS]
    return isinstance(record, ConfigRecord) and record[Key.STAGE] == Stage.COLLECT_MASKED_VECTORS
