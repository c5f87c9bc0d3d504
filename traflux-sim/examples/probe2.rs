use traflux_core::*;
use traflux_core::network::*;
use traflux_lp::multicommodity::*;
use traflux_te::format::*;
use traflux_te::generate::*;
use traflux_te::*;
fn stats(mut v: Vec<f64>) -> String { let n=v.len(); let m=v.iter().sum::<f64>()/n as f64; v.sort_by(f64::total_cmp); format!("{m:.4} p5 {:.4} min {:.4}", v[(0.05*(n-1) as f64) as usize], v[0]) }
fn main() {
    let dir = std::env::var("TRAFLUX_DATA").unwrap()+"/cfr-rl/";
    for name in ["Abilene","Ebone","Sprintlink","Tiscali"] {
        let network = read_network_file(dir.clone()+name, Some(Format::CfrRl), &ReadOptions::default()).unwrap().network;
        let base = ecmp(&network).unwrap();
        let h = match name {"Ebone"=>0.19,"Sprintlink"=>0.51,_=>0.244};
        let mean = BitRate::bits_per_second(1e3);
        let sets: Vec<(&str, Vec<TrafficMatrix>)> = if name=="Abilene" {
            let all = read_matrices_file(dir.clone()+"AbileneTM", Some(Format::CfrRl), &network, &ReadOptions::default()).unwrap();
            vec![("test days", all.into_iter().skip(1152).step_by(6).collect())]
        } else { vec![("exp", TrafficModel::Exponential{mean}.matrices(&network, 6, 1).unwrap()),
                      ("uni", TrafficModel::UniformAround{mean, half_width:h}.matrices(&network, 6, 1).unwrap())] };
        let k = share_of_pairs(&network, 0.1);
        for (what, tms) in sets {
            println!("{name} {what} n={} k={k}", tms.len());
            let mut full = MinMaxSolver::new(&network);
            let opt: Vec<f64> = tms.iter().map(|tm| full.solve(&FlowProblem::all(&network, tm).unwrap(), None).unwrap().utilization).collect();
            for steps in [6,8,12,16,32usize] {
                let mut crit = MinMaxSolver::new(&network);
                let mut probe = SelectionEncoder::new(&network, &base, k).with_steps(steps);let mut obs=Observation::default();
                let (mut pr, mut rd, mut us, mut rel) = (vec![], vec![], vec![], vec![]);
                for (tm, opt) in tms.iter().zip(&opt) {
                    let loads = base.loads(&network, tm);
                    let u: Vec<f64> = loads.iter().zip(network.links()).map(|(l,k)| l/k.capacity.get()).collect();
                    let t=std::time::Instant::now(); probe.encode_into(tm, &mut obs).unwrap(); us.push(t.elapsed().as_secs_f64()*1e6);
                    let c=obs.context.len(); let reached=f64::from(obs.context[c-2]);
                    let mut v: Vec<(f32,usize)> = obs.groups.column(19).iter().copied().enumerate().map(|(p,x)|(-x,p)).collect();
                    v.sort_by(|a,b| a.0.total_cmp(&b.0)); let set: Vec<GroupIx>=v[..k].iter().map(|x|GroupIx::from(x.1)).collect();
                    rel.push(opt/(reached*u.iter().copied().fold(0.0,f64::max)));
                    pr.push(opt/crit.solve(&FlowProblem::critical(&network,&base,tm,&set).unwrap(), None).unwrap().utilization);
                    rd.push(selected_share(&network, tm, &set));
                }
                us.sort_by(f64::total_cmp);
                println!("  steps {steps}: {} rd {:.3} relaxed {} us {:.0}", stats(pr), rd.iter().sum::<f64>()/rd.len() as f64, stats(rel), us[us.len()/4]);
            }
        }
    }
}
