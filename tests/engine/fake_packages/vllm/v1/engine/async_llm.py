from vllm import EngineArgs, LLMEngine


class AsyncLLM:
    def __init__(self, fault, max_num_seqs, caches):
        arguments = EngineArgs(fault=fault, max_num_seqs=max_num_seqs, enable_prefix_caching=caches)
        self.vllm_config = LLMEngine.from_engine_args(arguments).vllm_config
