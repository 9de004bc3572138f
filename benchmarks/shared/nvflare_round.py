"""One sum of NVIDIA FLARE with homomorphic encryption, by its own classes and defaults.

Runs in whatever Python has NVFlare: nothing of Tacit is imported. The parts are put together as
NVFlare's own workflow does: a filter on each device encrypts what the training made, FOBS writes
the message, an aggregator on the server adds up and divides, and a filter on each device decrypts.
The key comes from NVFlare's builder for provisioning. What the workflow does beside that, and its
transport, is not measured.
"""

import logging
from importlib.metadata import version

import numpy as np
import tenseal
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_opt.he.intime_accumulate_model_aggregator import (
    HEInTimeAccumulateWeightedAggregator,
)
from nvflare.app_opt.he.model_decryptor import HEModelDecryptor
from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
from nvflare.fuel.utils import fobs
from nvflare.lighter.impl.he import HEBuilder

from benchmarks.shared.settings import OPENERS, Outcome, Setting, Tensors, Vector
from benchmarks.shared.steps import Step, Steps

ROUND = 1


def versions() -> str:
    """Of NVFlare and of the library under it."""
    return f"NVFlare {version('nvflare')} with TenSEAL {version('tenseal')}"


def nvflare_round(setting: Setting, steps: Steps) -> Outcome:
    """Weights are numbers of steps, by which a device multiplies before it encrypts."""
    logging.disable(logging.CRITICAL)
    flare_decomposers.register()
    builder = HEBuilder()
    builder.initialize(None, None)
    device_key = tenseal.context_from(builder.get_serialized_context(is_client=True), n_threads=1)
    # As on a device whose workspace holds the key's file: it is loaded when the run starts.
    encryptor, decryptor = HEModelEncryptor(), HEModelDecryptor()
    encryptor.tenseal_context = decryptor.tenseal_context = device_key
    encryptor.encrypt_layers = [True]  # what None, the default, becomes then
    context = _context()
    aggregator = HEInTimeAccumulateWeightedAggregator()
    aggregator.handle_event(EventType.START_RUN, context)

    for device, weight in enumerate(setting.cohort.weights):
        result = _result(setting.tensors(device), weight, device)
        with steps(Step.HIDE, device):
            hidden = encryptor.process_dxo(from_shareable(result), result, context)
            data = fobs.dumps(hidden.update_shareable(result))
        steps.sent[device] += len(data)
        with steps(Step.TAKE, device):
            if not aggregator.accept(fobs.loads(data), context):
                raise RuntimeError("NVFlare's aggregator refused an update")
    with steps(Step.ONCE):
        sent = fobs.dumps(aggregator.aggregate(context))
    for device in range(OPENERS):
        steps.received[device] += len(sent)
        with steps(Step.OPEN, device):
            arrived = fobs.loads(sent)
            opened = decryptor.process_dxo(from_shareable(arrived), arrived, context)
            tensors = [np.asarray(values) for values in opened.data.values()]
    mean: Vector = np.concatenate(tensors)
    return Outcome(mean, setting.cohort.weights, len(sent))


def _context() -> FLContext:
    context, peer = FLContext(), FLContext()
    context.set_prop(AppConstants.CURRENT_ROUND, ROUND, private=True, sticky=False)
    context.set_peer_context(peer)
    return context


def _result(tensors: Tensors, steps: int, device: int) -> Shareable:
    """What a device's training hands to the filters."""
    params = {f"layer {number}": tensor for number, tensor in enumerate(tensors)}
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: steps}
    result = DXO(DataKind.WEIGHT_DIFF, data=params, meta=meta).to_shareable()
    result.add_cookie(AppConstants.CONTRIBUTION_ROUND, ROUND)
    result.set_peer_props({ReservedKey.IDENTITY_NAME: f"site-{device}"})
    return result
