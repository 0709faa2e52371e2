"""Spec files as users of TAO have them: of 4.0, and what today's releases write."""

POSE_TRAIN = """\
output_dir: /results/kinetics
encryption_key: nvidia_tao
model_config:
  model_type: ST-GCN
  in_channels: 3
  num_class: 3
  dropout: 0.25
  graph_layout: openpose
  edge_importance_weighting: True
train_config:
  optim:
    lr: 0.2
    lr_steps:
    - 20
    - 30
  epochs: 50
  checkpoint_interval: 5
  grad_clip: 1.0
dataset_config:
  train_data_path: train_data.npy
  train_label_path: train_label.pkl
  val_data_path: val_data.npy
  val_label_path: val_label.pkl
  label_map: {front_raises: 0, pull_ups: 1, deadlifting: 2}
  random_choose: True
  window_size: 150
  workers: 5
"""
VIDEO_TRAIN = """\
output_dir: /results/rgb_3d
key: nvidia_tlt
gpu_ids: [0, 1]
model_config:
  model_type: rgb
  backbone: resnet18
  rgb_seq_length: 3
  input_type: 3d
  sample_strategy: consecutive
train_config:
  optim: {lr: 0.001, lr_steps: [5, 15, 20]}
  epochs: 20
  checkpoint_interval: 1
dataset_config:
  train_dataset_dir: /data/train
  label_map: {fall_floor: 0, ride_bike: 1}
  output_shape: [240, 320]
  batch_size: 32
  workers: 4
  clips_per_video: 5
  augmentation_config:
    multi_scale_crop: True
    rgb_input_mean: [0.5]
    rgb_input_std: [0.5]
"""
# What both networks' notebooks gave to evaluate, inference and export alike.
VIDEO_MODEL = """\
model_config: {model_type: rgb, backbone: resnet18, rgb_seq_length: 3, input_type: 3d}
dataset_config: {label_map: {fall_floor: 0, ride_bike: 1}, output_shape: [224, 224], batch_size: 32}
"""
POSE_MODEL = """\
model_config: {model_type: ST-GCN, in_channels: 3, num_class: 2, graph_layout: nvidia}
dataset_config: {label_map: {sitting: 0, standing: 1}, batch_size: 16, workers: 1}
"""

COMMON = """\
model_name: {network}
encryption_key: nvidia_tao
results_dir: /results
wandb: {{enable: true, project: TAO Toolkit, entity: '', group: '', tags: [training, tao-toolkit],
  reinit: false, sync_tensorboard: false, save_code: false, name: TAO Toolkit training experiment,
  run_id: ''}}
"""
TAO_TRAIN = """\
  num_gpus: 1
  gpu_ids: [0]
  num_nodes: 1
  seed: 1234
  cudnn: {benchmark: false, deterministic: true}
  num_epochs: 30
  checkpoint_interval: 10
  checkpoint_interval_unit: epoch
  validation_interval: 10
  resume_training_checkpoint_path: null
  results_dir: /results/train
"""
TAO_PREDICT = """\
  num_gpus: 1
  gpu_ids: [0]
  num_nodes: 1
  checkpoint: ???
  trt_engine: null
  results_dir: null
"""
TAO_WROTE = {
    "action_recognition": COMMON.format(network="action_recognition")
    + """\
model:
  model_type: rgb
  backbone: resnet_18
  input_type: 2d
  of_seq_length: 10
  of_pretrained_model_path: null
  of_pretrained_num_classes: 5
  rgb_seq_length: 3
  rgb_pretrained_model_path: ''
  rgb_pretrained_num_classes: 5
  num_fc: 64
  joint_pretrained_model_path: null
  sample_strategy: random_interval
  sample_rate: 1
  imagenet_pretrained: false
  dropout_ratio: 0.5
  input_width: 224
  input_height: 224
dataset:
  train_dataset_dir: /data/train
  val_dataset_dir: /data/test
  label_map: {catch: 0, smile: 1}
  batch_size: 2
  workers: 8
  clips_per_video: 1
  augmentation_config:
    train_crop_type: random_crop
    scales: [1.0]
    horizontal_flip_prob: 0.5
    rgb_input_mean: [0.485, 0.456, 0.406]
    rgb_input_std: [0.229, 0.224, 0.225]
    of_input_mean: [0.5]
    of_input_std: [0.5]
    val_center_crop: false
    crop_smaller_edge: 256
train:
"""
    + TAO_TRAIN
    + """\
  optim: {lr: 0.0005, momentum: 0.9, weight_decay: 0.0005, lr_scheduler: MultiStep,
    lr_monitor: val_loss, patience: 1, min_lr: 0.0001, lr_steps: [15, 25], lr_decay: 0.1}
  clip_grad_norm: 0.0
evaluate:
"""
    + TAO_PREDICT
    + """\
  batch_size: 1
  test_dataset_dir: ???
  video_eval_mode: center
  video_num_segments: 10
export:
  checkpoint: ???
  results_dir: null
  onnx_file: ''
  gpu_id: 0
  batch_size: 1
inference:
"""
    + TAO_PREDICT
    + """\
  batch_size: 1
  inference_dataset_dir: ???
  video_inf_mode: center
  video_num_segments: 1
""",
    "pose_classification": COMMON.format(network="pose_classification")
    + """\
model:
  model_type: ST-GCN
  pretrained_model_path: null
  input_channels: 3
  dropout: 0.5
  graph_layout: nvidia
  graph_strategy: spatial
  edge_importance_weighting: true
dataset:
  train_dataset: {data_path: /data/train_data.npy, label_path: /data/train_label.pkl}
  val_dataset: {data_path: /data/val_data.npy, label_path: /data/val_label.pkl}
  num_classes: 2
  label_map: {sitting: 0, standing: 1}
  random_choose: false
  random_move: false
  window_size: -1
  batch_size: 16
  num_workers: 1
train:
"""
    + TAO_TRAIN
    + """\
  optim: {optimizer_type: torch.optim.SGD, lr: 0.1, momentum: 0.9, nesterov: true,
    weight_decay: 0.0001, lr_scheduler: MultiStep, lr_monitor: val_loss, patience: 1,
    min_lr: 0.0001, lr_steps: [10, 60], lr_decay: 0.1}
  grad_clip: 0.0
inference:
"""
    + TAO_PREDICT
    + """\
  batch_size: -1
  output_file: null
  test_dataset: {data_path: null, label_path: null}
evaluate:
"""
    + TAO_PREDICT
    + """\
  batch_size: -1
  test_dataset: {data_path: null, label_path: null}
export: {checkpoint: null, onnx_file: null, gpu_id: 0, results_dir: null}
dataset_convert: {results_dir: null, data: null, pose_type: 3dbp, num_joints: 34,
  input_width: 1920, input_height: 1080, focal_length: 1200.0, sequence_length_max: 300,
  sequence_length_min: 10, sequence_length: 100, sequence_overlap: 0.5}
""",
}
