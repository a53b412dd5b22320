"""The wide two-layer network: public functions, the module, autograd, dispatcher ops, kernels on tensors."""
