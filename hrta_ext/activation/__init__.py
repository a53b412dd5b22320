"""The homotopy activation: public functions, autograd, modules, dispatcher ops, kernels on tensors."""
