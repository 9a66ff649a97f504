from vllm import EngineArgs, LLMEngine


class AsyncLLM:
    def __init__(self, fault, max_num_seqs):
        self.vllm_config = LLMEngine.from_engine_args(
            EngineArgs(fault=fault, max_num_seqs=max_num_seqs)
        ).vllm_config
